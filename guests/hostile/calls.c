/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Illegal hypercalls, and what each must answer. Sources: Arm DEN0077 1.0, and the behaviour of
 * Hafnium's version of it.
 */
#include "hostile.h"
#include "log.h"

enum expect {
	FFA,	  /* FFA_ERROR with this code */
	UNKNOWN,  /* FFA_ERROR NOT_SUPPORTED, or the calling convention's -1 */
	VALUE32,  /* this in w0 */
	VALUE64,  /* this in x0 */
	KEPT,	  /* -1 in x0, and x1..x7 as they were */
};

enum conduit { HVC, SMC };

/* Stand-ins for what is known only when running. */
#define SELF 0x5e1f000000000001UL      /* this VM's id */
#define SELF_16 0x5e1f000000000002UL   /* ... in the upper half of a word, receiver 0 */
#define SELF_SELF 0x5e1f000000000003UL /* ... in both halves */
#define SELF_TO(vm) (0x5e1f000100000000UL | (vm))
#define TO_SELF(vm) (0x5e1f000200000000UL | (vm))

static const struct check {
	const char *name;
	enum conduit conduit;
	struct call call;
	enum expect expect;
	s64 value;
} checks[] = {
	{"version, bit 31 set", HVC, {{FFA_VERSION, 1UL << 31}}, VALUE32, FFA_NOT_SUPPORTED},
	{"features of nothing", HVC, {{FFA_FEATURES, 0}}, FFA, FFA_NOT_SUPPORTED},
	{"features of a PSCI call", HVC, {{FFA_FEATURES, 0x84000000}}, FFA, FFA_NOT_SUPPORTED},
	{"features of unmap", HVC, {{FFA_FEATURES, FFA_RXTX_UNMAP}}, FFA, FFA_NOT_SUPPORTED},
	{"map the mailbox again", HVC,
	 {{FFA_RXTX_MAP, (u64)mailbox_tx, (u64)mailbox_rx, 1}}, FFA, FFA_DENIED},
	{"map it elsewhere", SMC, {{FFA_RXTX_MAP, 0, 0x1000, 1}}, FFA, FFA_DENIED},
	{"release, nothing read", HVC, {{FFA_RX_RELEASE}}, FFA, FFA_DENIED},
	{"release, nothing read", SMC, {{FFA_RX_RELEASE}}, FFA, FFA_DENIED},
	{"poll, nothing there", HVC, {{FFA_MSG_POLL}}, FFA, FFA_RETRY},

	{"send as the primary", HVC, {{FFA_MSG_SEND, PRIMARY_ID << 16 | 2, 0, 16}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"send as the hypervisor", HVC, {{FFA_MSG_SEND, PRIMARY_ID, 0, 16}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"send as nobody", HVC, {{FFA_MSG_SEND, 0x77770001, 0, 16}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"send to oneself", HVC, {{FFA_MSG_SEND, SELF_SELF, 0, 16}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"send to the hypervisor", HVC, {{FFA_MSG_SEND, SELF_TO(0), 0, 16}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"send to nobody", HVC, {{FFA_MSG_SEND, SELF_TO(0x7777), 0, 16}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"send 4097 bytes", HVC, {{FFA_MSG_SEND, SELF_TO(PRIMARY_ID), 0, 4097}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"send 4 GiB - 1", HVC, {{FFA_MSG_SEND, SELF_TO(PRIMARY_ID), 0, 0xffffffff}}, FFA,
	 FFA_INVALID_PARAMETERS},

	{"run the primary", HVC, {{FFA_RUN, PRIMARY_ID << 16}}, FFA, FFA_DENIED},
	{"run oneself", HVC, {{FFA_RUN, SELF_16}}, FFA, FFA_DENIED},
	{"run nobody", HVC, {{FFA_RUN, 0x77770000}}, FFA, FFA_DENIED},
	{"direct request", HVC, {{FFA_MSG_SEND_DIRECT_REQ, SELF_TO(PRIMARY_ID)}}, FFA,
	 FFA_NOT_SUPPORTED},
	{"direct request, 64 bits", HVC,
	 {{FFA_MSG_SEND_DIRECT_REQ | FFA_64, SELF_TO(PRIMARY_ID)}}, FFA, FFA_NOT_SUPPORTED},
	{"response as another", HVC, {{FFA_MSG_SEND_DIRECT_RESP, 0x77770001}}, FFA,
	 FFA_INVALID_PARAMETERS},
	{"response, no request", HVC, {{FFA_MSG_SEND_DIRECT_RESP, SELF_TO(PRIMARY_ID)}}, FFA,
	 FFA_DENIED},
	{"partitions of no UUID", HVC, {{FFA_PARTITION_INFO_GET, 1, 2, 3, 4}}, FFA,
	 FFA_INVALID_PARAMETERS},

	{"error as a call", HVC, {{FFA_ERROR}}, UNKNOWN, 0},
	{"success as a call", HVC, {{FFA_SUCCESS}}, UNKNOWN, 0},
	{"interrupt as a call", HVC, {{FFA_INTERRUPT}}, UNKNOWN, 0},
	{"FF-A 0xff", HVC, {{0x840000ff}}, UNKNOWN, 0},
	{"FF-A 0xff, 64 bits", SMC, {{0xc40000ff}}, UNKNOWN, 0},

	{"waiter, not the primary", HVC, {{HF_MAILBOX_WAITER_GET, SELF}}, VALUE64, -1},
	{"waiter of the primary", HVC, {{HF_MAILBOX_WAITER_GET, PRIMARY_ID}}, VALUE64, -1},
	{"writable, nothing is", HVC, {{HF_MAILBOX_WRITABLE_GET}}, VALUE64, -1},
	{"enable interrupt 64", HVC, {{HF_INTERRUPT_ENABLE, 64, 1}}, VALUE64, -1},
	{"enable interrupt 2^32 - 1", HVC, {{HF_INTERRUPT_ENABLE, 0xffffffff, 1}}, VALUE64, -1},
	{"interrupt, none enabled", HVC, {{HF_INTERRUPT_GET}}, VALUE32, HF_INTID_INVALID},
	{"inject into the primary", HVC, {{HF_INTERRUPT_INJECT, PRIMARY_ID, 0, 1}}, VALUE64, -1},
	{"inject into nobody", HVC, {{HF_INTERRUPT_INJECT, 0x7777, 0, 1}}, VALUE64, -1},
	{"inject into vCPU 512", HVC, {{HF_INTERRUPT_INJECT, SELF, 512, 1}}, VALUE64, -1},
	{"inject interrupt 64", HVC, {{HF_INTERRUPT_INJECT, SELF, 0, 64}}, VALUE64, -1},
	{"HVC 0xff7f", HVC, {{0xff7f}}, VALUE64, -1},
	{"HVC 0", HVC, {{0}}, VALUE64, -1},
	{"HVC 2^64 - 1", HVC, {{~0UL}}, VALUE64, -1},
	{"interrupt by SMC", SMC, {{HF_INTERRUPT_GET, 1, 2, 3, 4, 5, 6, 7}}, KEPT, 0},
	{"inject by SMC", SMC, {{HF_INTERRUPT_INJECT, 9, 8, 7, 6, 5, 4, 3}}, KEPT, 0},
	{"SMC on no list", SMC, {{0xbf00ff01, 1, 2, 3, 4, 5, 6, 7}}, KEPT, 0},

	{"start oneself", SMC, {{PSCI_CPU_ON, 0, 0, 0}}, VALUE32, PSCI_ALREADY_ON},
	{"start vCPU 512", SMC, {{PSCI_CPU_ON, 512, 0, 0}}, VALUE32, PSCI_INVALID_PARAMETERS},
	{"state of vCPU 512", SMC, {{PSCI_AFFINITY_INFO, 512, 0}}, VALUE32,
	 PSCI_INVALID_PARAMETERS},
	{"system off", SMC, {{PSCI_SYSTEM_OFF}}, VALUE32, PSCI_NOT_SUPPORTED},
	{"system reset", SMC, {{PSCI_SYSTEM_RESET}}, VALUE32, PSCI_NOT_SUPPORTED},
	{"PSCI features of nothing", SMC, {{PSCI_FEATURES, 0x8400001f}}, VALUE32,
	 PSCI_NOT_SUPPORTED},
	{"PSCI migrate", SMC, {{0x84000005, 0}}, VALUE32, PSCI_NOT_SUPPORTED},
};

/* Put this VM's id where the table says so. */
static u64 resolve(u64 value)
{
	u64 self = mailbox_self;

	switch (value >> 32) {
	case SELF >> 32:
		return value == SELF ? self : value == SELF_16 ? self << 16 : self << 16 | self;
	case SELF_TO(0) >> 32:
		return self << 16 | (u32)value;
	case TO_SELF(0) >> 32:
		return (u64)(u32)value << 16 | self;
	default:
		return value;
	}
}

static bool as_expected(const struct check *check, const struct call *sent,
			const struct call *result)
{
	switch (check->expect) {
	case FFA:
		/* The code is sign-extended by one hypervisor, and 32 bits in the specification. */
		return result->r[0] == FFA_ERROR && (s32)result->r[2] == check->value;
	case UNKNOWN:
		return (s64)result->r[0] == -1 || (result->r[0] == FFA_ERROR &&
						   (s32)result->r[2] == FFA_NOT_SUPPORTED);
	case VALUE32:
		return (u32)result->r[0] == (u32)check->value;
	case VALUE64:
		return (s64)result->r[0] == check->value;
	case KEPT:
		for (unsigned int i = 1; i < 8; i++)
			if (result->r[i] != sent->r[i])
				return false;
		return (s64)result->r[0] == -1;
	}
	return false;
}

void check_calls(struct tally *tally)
{
	for (unsigned int i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		const struct check *check = &checks[i];
		struct call sent = check->call, result;
		struct message message;

		for (unsigned int r = 1; r < 8; r++)
			sent.r[r] = resolve(sent.r[r]);
		result = check->conduit == SMC ? arch_firmware_call(sent) : arch_hypercall(sent);
		while (mailbox_parse(&result, &message)) {
			/* The host wrote meanwhile: that is no mistake of the hypervisor's. */
			keep_message(&message);
			result = arch_hypercall(sent);
		}
		tally->checks++;
		if (as_expected(check, &sent, &result))
			continue;
		tally->wrong++;
		log_line("hostile: %s: x0=0x%lx x1=0x%lx x2=0x%lx, expected %d", check->name,
			 result.r[0], result.r[1], result.r[2], (s32)check->value);
	}
}
