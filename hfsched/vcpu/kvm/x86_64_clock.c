/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * x86-64: the guest's clock and its paravirtual timer, of which the kernel knows nothing.
 */
#define _GNU_SOURCE
#include "x86_64.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int64_t hfs_guest_now(const struct hfs_cpu *cpu)
{
	return cpu->frozen ? (int64_t)cpu->frozen_count : now() - cpu->clock_offset;
}

int hfs_read_clock(struct hfs_cpu *cpu, uint64_t *count)
{
	*count = (uint64_t)hfs_guest_now(cpu);
	return 0;
}

uint64_t hfs_ticks(uint64_t ns)
{
	return ns;
}

int hfs_thaw(struct hfs_cpu *cpu, const struct hfs_cpu *first)
{
	cpu->clock_offset = cpu == first ? now() - (int64_t)cpu->frozen_count : first->clock_offset;
	cpu->frozen = 0;
	return 0;
}

void hfs_free_alarm(struct hfs_cpu *cpu)
{
	if (cpu->alarm_thread)
		timer_delete(cpu->alarm);
	cpu->alarm_thread = 0;
}

int hfs_set_alarm(struct hfs_cpu *cpu, int64_t deadline)
{
	struct itimerspec when = {0};
	int64_t at = deadline > INT64_MAX - cpu->clock_offset ? INT64_MAX : deadline + cpu->clock_offset;

	if (cpu->alarm_thread && cpu->alarm_thread != hfs_thread_id())
		hfs_free_alarm(cpu);
	if (cpu->alarm_thread && cpu->alarm_set == at)
		return 0;
	if (!cpu->alarm_thread) {
		struct sigevent event;

		memset(&event, 0, sizeof(event));
		event.sigev_notify = SIGEV_THREAD_ID;
		event.sigev_signo = hfs_kick_signal();
		event._sigev_un._tid = hfs_thread_id();
		if (timer_create(CLOCK_MONOTONIC, &event, &cpu->alarm))
			return -errno;
		cpu->alarm_thread = hfs_thread_id();
	}
	if (at >= 0) {
		when.it_value.tv_sec = at / 1000000000;
		when.it_value.tv_nsec = at % 1000000000;
	}
	if (timer_settime(cpu->alarm, TIMER_ABSTIME, &when, NULL))
		return -errno;
	cpu->alarm_set = at;
	return 0;
}

void hfs_timer_call(struct hfs_cpu *cpu)
{
	struct kvm_regs *regs = hfs_registers(cpu);

	switch (regs->rax) {
	case 0:
		regs->rax = (uint64_t)hfs_guest_now(cpu);
		regs->rdi = 1000000000;
		break;
	case 1:
		cpu->deadline = regs->rdi > INT64_MAX ? INT64_MAX : (int64_t)regs->rdi;
		regs->rax = 0;
		break;
	case 2:
		cpu->deadline = -1;
		regs->rax = 0;
		break;
	default:
		regs->rax = ~0ULL;
	}
	cpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

int hfs_timer_remaining(struct hfs_cpu *cpu, int64_t *left)
{
	if (cpu->deadline < 0)
		return HFS_TIMER_OFF;
	*left = cpu->deadline - hfs_guest_now(cpu);
	if (*left < 0)
		*left = 0;
	return HFS_TIMER_ARMED;
}

int hfs_mask_timer(struct hfs_cpu *cpu)
{
	cpu->deadline = -1;
	return 0;
}
