/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The script: a table that a loader puts PROBE_SCRIPT bytes behind the image's first byte. Each row is
 * done once, and its registers are replaced by what came of it, so the table is also the result.
 */
#ifndef PROBE_H
#define PROBE_H

#include "arch.h"

#define PROBE_SCRIPT 0x40000UL
#define PROBE_MAGIC 0x74726970637366b1UL

enum row_kind {
	ROW_HVC,	 /* r: x0..x7, in and out */
	ROW_SMC,
	ROW_LOAD,	 /* address -> the eight 64-bit words there */
	ROW_STORE,	 /* address, value, count: value, value + 1, ... in so many 64-bit words */
	ROW_EXECUTE,	 /* address: call it */
	ROW_INSTRUCTION, /* arm64's encoding, x0 -> x0 */
	ROW_INTERRUPTS,	 /* unmask, mask -> how many were taken, their ids */
	ROW_START,	 /* vCPU: PSCI CPU_ON; it goes on with its rows -> w0 */
	ROW_ENTRY,	 /* index -> eight of the registers at the image's first instruction */
	ROW_WORDS,	 /* address, seven 64-bit words that go there */
};

enum row_state {
	ROW_TO_DO,
	ROW_DONE,
	ROW_FAULT, /* r: syndrome, address */
	ROW_UNKNOWN,
	ROW_BEGUN, /* a call that has not returned */
};

struct row {
	u32 kind;
	u32 state;
	u64 r[8];
};

struct script {
	u64 magic;
	struct {
		u32 first, count;
	} vcpus[ARCH_CPUS];
	struct row rows[];
};

/* instruction.c: do one instruction of arm64 with x0 = *value; false: it faulted. */
bool probe_instruction(u32 instruction, u64 *value, struct fault *fault);

/* entry.S: x0..x30, sp, and the system registers in the order of that file. */
#define PROBE_ENTRY 64U
extern u64 probe_entry[PROBE_ENTRY];

#endif
