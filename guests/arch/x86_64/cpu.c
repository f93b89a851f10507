/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Power and threads on x86-64.
 */
#include "arch.h"
#include "hypercalls.h"
#include "string.h"

/* start.S reads this. */
struct secondary {
	void *stack_top;
	void (*function)(void *);
	void *argument;
};

void secondary_start(void);
void arch_thread_begin(void);

/* Of each vCPU. */
static struct secondary secondaries[ARCH_CPUS];

s32 arch_cpu_on(u32 index, void *stack_top, void (*function)(void *), void *argument)
{
	struct secondary *secondary = &secondaries[index % ARCH_CPUS];
	struct call c = {{PSCI_CPU_ON, index, (u64)secondary_start, (u64)secondary}};

	*secondary = (struct secondary){stack_top, function, argument};
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
	/* The layout of arch_switch: r15, r14, r13, r12, rbx, rbp, and where to return to. */
	u64 *sp = (u64 *)((u64)stack_top & ~15UL) - 7;

	memset(sp, 0, 7 * sizeof(*sp));
	sp[3] = (u64)argument;
	sp[4] = (u64)function;
	sp[6] = (u64)arch_thread_begin;
	return sp;
}
