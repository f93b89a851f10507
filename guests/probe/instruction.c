/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Instructions that the script names by their encoding.
 */
#include "probe.h"

#ifdef __aarch64__

/* The instruction; then str x0, [x1]; mov x0, #0; ret. x1 is the address of the value. */
static u32 code[4] __attribute__((aligned(64)));

bool probe_instruction(u32 instruction, u64 *value, struct fault *fault)
{
	code[0] = instruction;
	code[1] = 0xf9000020;
	code[2] = 0xd2800000;
	code[3] = 0xd65f03c0;
	__asm__ volatile("dc cvau, %0\n\tdsb ish\n\tic ivau, %0\n\tdsb ish\n\tisb" ::"r"(code)
			 : "memory");
	return !arch_try((arch_probe *)code, *value, (u64)value, fault);
}

#else

u64 probe_entry[PROBE_ENTRY];

bool probe_instruction(u32 instruction, u64 *value, struct fault *fault)
{
	(void)instruction;
	(void)value;
	*fault = (struct fault){0};
	return false;
}

#endif
