/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * hostile: does on request what no guest should, and says how the hypervisor took it.
 */
#include "hostile.h"

#include "boot.h"
#include "log.h"
#include "string.h"
#include "text.h"

const char guest_name[] = "hostile";
/* So that an access to what the VM does not have reaches the hypervisor. */
const bool guest_map_everything = true;

#define KEPT 16
#define ANSWER_MAX 256

/* Messages that came while something else was under way. */
static struct {
	struct message message;
	u8 data[FFA_MSG_MAX];
} kept[KEPT];
static unsigned int first_kept, kept_count;

bool can_keep_message(void)
{
	return kept_count < KEPT;
}

void keep_message(const struct message *message)
{
	unsigned int i = (first_kept + kept_count) % KEPT;

	if (kept_count == KEPT) {
		log_line("hostile: no room for a message of vm %u", message->sender);
	} else {
		kept_count++;
		kept[i].message = *message;
		memcpy(kept[i].data, mailbox_rx, message->size);
	}
	mailbox_release();
}

static const char help[] = "all, sysregs, random SEED COUNT, read ADDR, write ADDR, exec ADDR, "
			   "undef, svc, align, die, spin, log, pl011 TEXT, hvc ID ARG..., "
			   "smc ID ARG..., cpuid LEAF";

static void reply(u32 to, const struct ports *ports, const char *text)
{
	(void)mailbox_send_yielding(to, mailbox_compose(ports, text, strlen(text)));
}

static void format_fault(char *answer, const struct fault *fault)
{
	format(answer, ANSWER_MAX, "abort " ARCH_FAULT_FORMAT, fault->syndrome, fault->address,
	       fault->pc);
}

/* Commands that are one instruction. */
static const struct {
	const char *name;
	arch_probe *probe;
	bool takes_address;
} probes[] = {
	{"read", arch_probe_read, true},   {"write", arch_probe_write, true},
	{"exec", arch_probe_exec, true},   {"undef", arch_probe_undef, false},
	{"svc", arch_probe_svc, false},	   {"align", arch_probe_align, false},
};

static bool run_probe(const char *text, char *answer)
{
	for (unsigned int i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
		struct fault fault = {0};
		u64 address = 0;

		if (!text_word(&text, probes[i].name))
			continue;
		if (probes[i].takes_address && !text_number(&text, &address))
			format(answer, ANSWER_MAX, "%s ADDR", probes[i].name);
		else if (arch_try(probes[i].probe, address, 0, &fault))
			format_fault(answer, &fault);
		else
			format(answer, ANSWER_MAX, "no abort");
		return true;
	}
	return false;
}

static bool run_call(const char *text, char *answer)
{
	struct call call = {{0}};
	bool firmware = text_word(&text, "smc");
	size_t n = 0;

	if (!firmware && !text_word(&text, "hvc"))
		return false;
	for (unsigned int i = 0; i < 8 && text_number(&text, &call.r[i]); i++)
		;
	if (*text)
		return false;
	call = tidy_call(call, firmware);
	for (unsigned int i = 0; i < 8; i++)
		n += format(answer + n, ANSWER_MAX - n, "%s0x%lx", i ? " " : "", call.r[i]);
	return true;
}

static bool run_cpuid(const char *text, char *answer)
{
	u32 out[4];
	u64 leaf;

	if (!text_word(&text, "cpuid") || !text_number(&text, &leaf))
		return false;
	if (arch_cpuid((u32)leaf, out))
		format(answer, ANSWER_MAX, "0x%x 0x%x 0x%x 0x%x", out[0], out[1], out[2], out[3]);
	else
		format(answer, ANSWER_MAX, "no such instruction");
	return true;
}

static void command(u32 sender, const struct ports *ports, const char *text)
{
	char answer[ANSWER_MAX];
	struct tally tally = {0};
	struct fault fault = {0};
	u64 seed, count;

	if (text_word(&text, "all")) {
		check_calls(&tally);
		check_memory_calls(&tally);
		check_faults(&tally);
		format(answer, ANSWER_MAX, "%u checks, %u wrong", tally.checks, tally.wrong);
	} else if (text_word(&text, "sysregs")) {
		check_registers(&tally);
		format(answer, ANSWER_MAX, "%u checks, %u wrong", tally.checks, tally.wrong);
	} else if (text_word(&text, "random") && text_number(&text, &seed) &&
		   text_number(&text, &count)) {
		format(answer, ANSWER_MAX, "%lu calls", random_calls(seed, count, ports));
	} else if (text_word(&text, "log")) {
		log_noise();
		format(answer, ANSWER_MAX, "logged");
	} else if (text_word(&text, "pl011")) {
		if (pl011_write(text, &fault))
			format(answer, ANSWER_MAX, "%lu bytes written", strlen(text) + 1);
		else
			format_fault(answer, &fault);
	} else if (text_word(&text, "die")) {
		reply(sender, ports, "dying");
		arch_die();
	} else if (text_word(&text, "spin")) {
		reply(sender, ports, "spinning");
		for (;;)
			__asm__ volatile("");
	} else if (!run_probe(text, answer) && !run_call(text, answer) &&
		   !run_cpuid(text, answer)) {
		format(answer, ANSWER_MAX, "%s", help);
	}
	reply(sender, ports, answer);
}

static void handle(const struct message *message, const u8 *data)
{
	static char text[PAYLOAD_MAX + 1];
	struct ports ports;
	size_t size;

	if (message->size < sizeof(ports))
		return;
	memcpy(&ports, data, sizeof(ports));
	if (ports.destination != PORT_TEXT)
		return;
	size = message->size - sizeof(ports);
	memcpy(text, data + sizeof(ports), size);
	text_end(text, size);
	command(message->sender, &ports, text);
}

void guest_main(void)
{
	mailbox_open();
	log_line("hostile: up, vm %u, memory 0x%lx + 0x%lx", mailbox_self, memory.base,
		 memory.size);
	for (;;) {
		struct message message;

		if (!kept_count) {
			if (mailbox_wait(&message))
				keep_message(&message);
			continue;
		}
		/* Copied out: what is handled may keep further messages. */
		static u8 data[FFA_MSG_MAX];

		message = kept[first_kept].message;
		memcpy(data, kept[first_kept].data, message.size);
		first_kept = (first_kept + 1) % KEPT;
		kept_count--;
		handle(&message, data);
	}
}
