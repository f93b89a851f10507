/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * arm64: the guest's counter and its virtual timer.
 */
#include "arm64.h"

#define TIMER_ENABLE 1
#define TIMER_MASK 2

/* The VM has one counter: setting it for one vCPU sets it for all. */
int hfs_read_clock(struct hfs_cpu *cpu, uint64_t *count)
{
	if (!cpu->frozen)
		return hfs_get_one(cpu, KVM_REG_ARM_TIMER_CNT, count);
	*count = cpu->frozen_count;
	return 0;
}

uint64_t hfs_ticks(uint64_t ns)
{
	uint64_t frequency;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	return ns / 1000000000 * frequency + ns % 1000000000 * frequency / 1000000000;
}

int hfs_thaw(struct hfs_cpu *cpu, const struct hfs_cpu *first)
{
	cpu->frozen = 0;
	return cpu == first ? hfs_put_one(cpu, KVM_REG_ARM_TIMER_CNT, cpu->frozen_count) : 0;
}

static int timer(struct hfs_cpu *cpu, uint64_t *control, uint64_t *value, uint64_t *count)
{
	int error = hfs_get_one(cpu, KVM_REG_ARM_TIMER_CTL, control);

	/* The ids of the two were swapped when they were defined: this is CNTV_CVAL. */
	if (!error)
		error = hfs_get_one(cpu, KVM_REG_ARM_TIMER_CVAL, value);
	return error ? error : hfs_read_clock(cpu, count);
}

int hfs_timer_remaining(struct hfs_cpu *cpu, int64_t *left)
{
	uint64_t control, value, count, frequency, ticks;
	int error = timer(cpu, &control, &value, &count);

	if (error)
		return error;
	if ((control & (TIMER_ENABLE | TIMER_MASK)) != TIMER_ENABLE)
		return HFS_TIMER_OFF;
	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	ticks = value > count ? value - count : 0;
	if (ticks / frequency >= INT64_MAX / 1000000000)
		*left = INT64_MAX;
	else /* rounded up: the timer must have fired by then */
		*left = (int64_t)(ticks / frequency * 1000000000 +
				  (ticks % frequency * 1000000000 + frequency - 1) / frequency);
	return HFS_TIMER_ARMED;
}

int hfs_mask_timer(struct hfs_cpu *cpu)
{
	uint64_t control;
	int error = hfs_get_one(cpu, KVM_REG_ARM_TIMER_CTL, &control);

	return error ? error : hfs_put_one(cpu, KVM_REG_ARM_TIMER_CTL, control | TIMER_MASK);
}
