/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Random hypercalls: function ids biased to those that exist, arguments biased to edges, by both
 * conduits. The guest must be able to answer afterwards, so:
 *
 * - CPU_OFF and FFA_ABORT are left out: they end the guest, as asked.
 * - Before each call the virtual timer is set, with its interrupt enabled: MSG_WAIT, CPU_SUSPEND
 *   and the other calls that sleep return within a millisecond without a wake-up.
 * - A message that a call returns is copied, released, and handled after the last call. With no
 *   space to keep one more, the calls that return messages are skipped.
 * - A call that succeeded with something else in the RX page is followed by a release.
 * - Before an unmap the mailbox is emptied like that, and after it mapped again, at once. What
 *   arrives in between is lost, where unmapping is supported.
 * - CPU_ON starts its vCPU, if there is one, at code that turns it off again.
 * - TX holds a message for the client's port, from port 99: what is sent is recognised there.
 * - At the end every interrupt is disabled and what is pending is taken.
 */
#include "hostile.h"
#include "boot.h"
#include "random.h"
#include "string.h"

static const u64 edges[32] = {
	0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0xffff,
	0x10000, 0x20001, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff,
	0x8000000000000000, 0xffffffffffff0000, 0xfffffffffffff000, 0xfffffffffffffff8,
	0xffffffffffffffff,
};

static u64 random_function(struct random *random)
{
	switch (random_below(random, 8)) {
	case 0:
	case 1:
	case 2:
		return 0x84000060 + random_below(random, 0x34);
	case 3:
		return 0xc4000060 + random_below(random, 0x34);
	case 4:
		return 0xff00 + random_below(random, 16);
	case 5:
		return 0x84000000 + random_below(random, 0x20);
	case 6:
		return 0xc4000000 + random_below(random, 0x20);
	default:
		return random_below(random, 2) ? HF_DEBUG_LOG : random_next64(random);
	}
}

/* An argument from 8 random bits, and more for one in eight: most machines here are emulated, and an
 * instruction costs as much as a thousand. */
static u64 random_argument(struct random *random, u32 bits)
{
	u64 self = mailbox_self;
	u32 which = bits >> 3 & 31;

	switch (bits & 7) {
	case 0:
		return self << 16 | which % 8;
	case 1:
		return self;
	case 2:
		return (u64)image_start + ((u64)which << 13);
	case 3:
		return random_next64(random);
	case 4:
		return random_below(random, 80);
	default:
		return edges[which];
	}
}

static bool is_left_out(u64 function)
{
	/* PSCI and FF-A are told apart by the low word; both have a 64-bit form. */
	u32 id = (u32)function & ~(u32)FFA_64;

	if (id == PSCI_CPU_OFF || id == FFA_ABORT)
		return true;
	return !can_keep_message() && (id == FFA_MSG_WAIT || id == FFA_MSG_POLL ||
				       id == FFA_MSG_SEND_DIRECT_RESP || id == FFA_RXTX_UNMAP);
}

/* Only one call can have disabled the timer's interrupt. */
static void set_timer(u64 ticks, u64 last)
{
	if ((u32)last == HF_INTERRUPT_ENABLE)
		hf_interrupt_enable(HF_INTID_VIRTUAL_TIMER, true);
	arch_timer_start(arch_counter() + ticks);
}

static void calm_down(void)
{
	arch_timer_stop();
	for (u32 intid = 0; intid < 64; intid++)
		hf_interrupt_enable(intid, true);
	while (hf_interrupt_get() != HF_INTID_INVALID)
		;
	for (u32 intid = 0; intid < 64; intid++)
		hf_interrupt_enable(intid, false);
	while (hf_mailbox_writable_get() >= 0)
		;
	/* Denied if there is nothing to release. */
	mailbox_release();
}

/* What the call would spoil. */
static void prepare(struct call *call)
{
	u32 id = (u32)call->r[0] & ~(u32)FFA_64;
	struct message message;

	if (id == ((u32)PSCI_CPU_ON & ~(u32)FFA_64))
		call->r[2] = (u64)arch_cpu_park;
	if (id == FFA_RXTX_UNMAP && mailbox_poll(&message))
		keep_message(&message);
}

/* What the call left in the mailbox. */
static void tidy(u64 function, const struct call *result)
{
	u32 id = (u32)function & ~(u32)FFA_64;
	struct message message;

	if (mailbox_parse(result, &message)) {
		keep_message(&message);
	} else if (id == FFA_RXTX_UNMAP) {
		hypercall(FFA_RXTX_MAP, (u64)mailbox_tx, (u64)mailbox_rx, 1, 0);
	} else if ((result->r[0] == FFA_SUCCESS && id == FFA_PARTITION_INFO_GET) ||
		   result->r[0] == FFA_MEM_RETRIEVE_RESP || result->r[0] == FFA_MEM_FRAG_TX) {
		mailbox_release();
	}
}

struct call tidy_call(struct call call, bool firmware)
{
	u64 function = call.r[0];

	prepare(&call);
	call = firmware ? arch_firmware_call(call) : arch_hypercall(call);
	tidy(function, &call);
	return call;
}

u64 random_calls(u64 seed, u64 count, const struct ports *ports)
{
	const struct ports noise = {.source = ports->source, .destination = PORT_NOISE};
	const u64 millisecond = arch_counter_frequency() / 1000;
	struct random random;
	u64 made = 0, last = HF_INTERRUPT_ENABLE;

	random_seed(&random, seed);
	mailbox_compose(&noise, "noise", 5); /* no call writes to TX */
	while (made < count) {
		struct call call = {{random_function(&random)}};
		u64 bits;

		if (is_left_out(call.r[0]))
			continue;
		bits = random_next64(&random);
		for (unsigned int i = 1; i < 8; i++)
			call.r[i] = random_argument(&random, (u32)(bits >> 8 * i));
		set_timer(millisecond, last);
		last = call.r[0];
		tidy_call(call, !(bits & 3));
		made++;
	}
	calm_down();
	return made;
}
