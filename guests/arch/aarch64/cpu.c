/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Power and threads on arm64.
 */
#include "arch.h"
#include "hypercalls.h"
#include "string.h"

/* start.S reads this with the MMU off. */
struct secondary {
	void *stack_top;
	void (*function)(void *);
	void *argument;
};

void secondary_start(void);
void arch_thread_begin(void);

/* Of each vCPU.  A line of its own: nothing else is written back or thrown away with it. */
static struct {
	struct secondary secondary;
} __attribute__((aligned(128))) lines[ARCH_CPUS];

s32 arch_cpu_on(u32 index, void *stack_top, void (*function)(void *), void *argument)
{
	struct secondary *secondary = &lines[index % ARCH_CPUS].secondary;
	struct call c = {{PSCI_CPU_ON, index, (u64)secondary_start, (u64)secondary}};

	*secondary = (struct secondary){stack_top, function, argument};
	__asm__ volatile("dc civac, %0\n\tdsb sy" ::"r"(secondary) : "memory");
	return (s32)arch_firmware_call(c).r[0];
}

s32 arch_cpu_state(u32 index)
{
	struct call c = {{PSCI_AFFINITY_INFO, index}};

	return (s32)arch_firmware_call(c).r[0];
}

void arch_cpu_off(void)
{
	struct call c = {{PSCI_CPU_OFF}};

	arch_firmware_call(c);
}

void *arch_thread_prepare(void *stack_top, void (*function)(void *), void *argument)
{
	/* The layout of arch_switch: x29, x30, x19, x20, ... */
	u64 *sp = (u64 *)((u64)stack_top & ~15UL) - 12;

	memset(sp, 0, 12 * sizeof(*sp));
	sp[1] = (u64)arch_thread_begin;
	sp[2] = (u64)function;
	sp[3] = (u64)argument;
	return sp;
}
