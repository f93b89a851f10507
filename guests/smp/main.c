/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * smp: two vCPUs of which one at a time reads the mailbox. After each answer the role passes to
 * the other, which sleeps in WFI until an interrupt injected by its sibling wakes it. So the
 * vCPU to wake for a message changes with every message, and vCPU 0 is often the wrong one.
 *
 * No vCPU ever enables MAILBOX_READABLE.
 */
#include "boot.h"
#include "log.h"
#include "mailbox.h"
#include "string.h"
#include "text.h"

#define VCPUS 2
#define WAKE 32U /* an interrupt id of this guest's own */
#define ANSWER_MAX 512

const char guest_name[] = "smp";

/* Whose turn it is. All else that the vCPUs share belongs to the reader. */
static u32 reader;
static bool turn_off[VCPUS];
static bool other_runs;

/* For vCPU 0 only once it was turned off and on again. */
static u8 stacks[VCPUS][16384] __attribute__((aligned(16)));
static char command[PAYLOAD_MAX + 1];

static void vcpu_loop(void *index);

static void wake(u32 vcpu)
{
	arch_barrier();
	hf_interrupt_inject(mailbox_self, vcpu, WAKE);
}

static bool start(u32 vcpu)
{
	turn_off[vcpu] = false;
	return arch_cpu_on(vcpu, stacks[vcpu] + sizeof(stacks[vcpu]), vcpu_loop,
			   (void *)(u64)vcpu) == 0;
}

/* Ask the other vCPU to turn itself off, and see it done. */
static void stop(u32 vcpu)
{
	__atomic_store_n(&turn_off[vcpu], true, __ATOMIC_RELEASE);
	wake(vcpu);
	while (arch_cpu_state(vcpu) == 0)
		ffa_yield();
}

static const char *state_name(u32 vcpu)
{
	s32 state = arch_cpu_state(vcpu);

	return state == 0 ? "on" : state == 1 ? "off" : "absent";
}

/* Run one command; what it says goes to the answer. */
static size_t run(u32 self, char *answer)
{
	u32 other = self ^ 1;
	size_t n = format(answer, ANSWER_MAX, "vcpu %u of %u: ", self, arch_cpu_state(1) < 0 ? 1 : VCPUS);
	char *to = answer + n;
	size_t room = ANSWER_MAX - n;

	if (equal(command, "affinity"))
		return n + format(to, room, "vcpu 0 %s, vcpu 1 %s", state_name(0), state_name(1));
	if (equal(command, "off")) {
		if (other_runs) {
			stop(other);
			other_runs = false;
		}
		return n + format(to, room, "vcpu %u %s", other, state_name(other));
	}
	if (equal(command, "on")) {
		if (!other_runs)
			other_runs = start(other);
		return n + format(to, room, "vcpu %u %s", other, state_name(other));
	}
	return n + format(to, room, "%.*s", (int)(ANSWER_MAX - 32), command);
}

static void answer(u32 self, const struct message *message)
{
	struct ports ports;
	char text[ANSWER_MAX];
	size_t size;

	if (message->size < sizeof(ports)) {
		mailbox_release();
		return;
	}
	memcpy(&ports, mailbox_rx, sizeof(ports));
	size = message->size - sizeof(ports);
	memcpy(command, mailbox_rx + sizeof(ports), size);
	text_end(command, size);
	mailbox_release();
	size = run(self, text);
	(void)mailbox_send_yielding(message->sender, mailbox_compose(&ports, text, size));
}

static void vcpu_loop(void *index)
{
	u32 self = (u32)(u64)index;
	struct message message;

	hf_interrupt_enable(WAKE, true);
	for (;;) {
		while (__atomic_load_n(&reader, __ATOMIC_ACQUIRE) != self) {
			if (__atomic_load_n(&turn_off[self], __ATOMIC_ACQUIRE))
				arch_cpu_off();
			arch_wait_for_interrupt();
			arch_irq_window();
		}
		/* A wake-up may be pending still from when the role came before the sleep. */
		if (!mailbox_wait(&message)) {
			arch_irq_window();
			continue;
		}
		answer(self, &message);
		if (other_runs) {
			__atomic_store_n(&reader, self ^ 1, __ATOMIC_RELEASE);
			wake(self ^ 1);
		}
	}
}

void guest_main(void)
{
	mailbox_open();
	other_runs = start(1);
	log_line("smp: up, vcpu 1 %s", state_name(1));
	vcpu_loop((void *)0);
}
