/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * arm64 without an in-kernel GIC: entering the guest, and decoding why it left.
 *
 * Hypercalls are forwarded by the SMCCC filter, the interrupt line is KVM_IRQ_LINE.  WFI stays in the
 * kernel.
 */
#include "arm64.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define ESR_EL1 ARM64_SYS_REG(3, 0, 5, 2, 0)
#define ESR_WRITE (1 << 6) /* WnR of a data abort's syndrome */

/* Since Linux 6.4; the headers here may be older: `longmode` is where `flags` is. */
#ifndef KVM_HYPERCALL_EXIT_SMC
#define IS_SMC(run) ((run)->hypercall.longmode & 1)
#else
#define IS_SMC(run) ((run)->hypercall.flags & KVM_HYPERCALL_EXIT_SMC)
#endif

static int failed(struct hfs_cpu *cpu, uint32_t reason, uint64_t detail)
{
	cpu->exit.reason = reason;
	cpu->exit.detail = detail;
	cpu->exit.address = 0;
	hfs_get_one(cpu, CORE(regs.pc), &cpu->exit.address);
	return HFS_FAILED;
}

/* `error` is -errno. */
static int ioctl_failed(struct hfs_cpu *cpu, int error)
{
	return failed(cpu, HFS_REASON_ERRNO, (uint64_t)-error);
}

int hfs_write_reply(struct hfs_cpu *cpu)
{
	int index, error = 0;

	for (index = 0; !error && index < (int)cpu->reply.count; index++)
		error = hfs_put_one(cpu, GENERAL(index), cpu->reply.values[index]);
	cpu->reply.count = 0;
	return error;
}

int hfs_arguments(struct hfs_cpu *cpu, uint32_t count, uint64_t *out)
{
	uint32_t index;
	int error = count > HFS_REPLY_MAX ? -EINVAL : 0;

	for (index = 0; !error && index < count; index++)
		error = hfs_get_one(cpu, GENERAL(index), &out[index]);
	return error;
}

int hfs_arch_before_run(struct hfs_cpu *cpu)
{
	int error = hfs_write_reply(cpu);

	return error ? ioctl_failed(cpu, error) : HFS_NO_EXIT;
}

static int hypercall(struct hfs_cpu *cpu)
{
	int index, error = 0;

	for (index = 0; !error && index < HFS_ARGUMENTS; index++)
		error = hfs_get_one(cpu, GENERAL(index), &cpu->exit.args[index]);
	if (error)
		return ioctl_failed(cpu, error);
	return IS_SMC(cpu->run) ? HFS_SMC : HFS_HVC;
}

int hfs_arch_after_run(struct hfs_cpu *cpu, int error)
{
	struct kvm_run *run = cpu->run;

	if (error == EINTR || error == EAGAIN)
		return run->s.regs.device_irq_level & KVM_ARM_DEV_EL1_VTIMER ? HFS_TIMER : HFS_NO_EXIT;
	if (error)
		return ioctl_failed(cpu, -error);
	switch (run->exit_reason) {
	case KVM_EXIT_HYPERCALL:
		return hypercall(cpu);
	case KVM_EXIT_INTR:
		return HFS_NO_EXIT;
	case KVM_EXIT_MMIO:
		return hfs_mmio_exit(cpu);
	case KVM_EXIT_ARM_NISV:
		cpu->exit.address = run->arm_nisv.fault_ipa;
		cpu->exit.virtual_address = 0;
		cpu->exit.write = run->arm_nisv.esr_iss >> 6 & 1;
		return HFS_UNDECODED;
	case KVM_EXIT_FAIL_ENTRY:
		return failed(cpu, run->exit_reason, run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_INTERNAL_ERROR:
		return failed(cpu, run->exit_reason, run->internal.suberror);
	default:
		return failed(cpu, run->exit_reason, 0);
	}
}

int hfs_update_line(struct hfs_cpu *cpu, int level)
{
	struct kvm_irq_level line = {
		.irq = KVM_ARM_IRQ_TYPE_CPU << KVM_ARM_IRQ_TYPE_SHIFT |
		       (uint32_t)cpu->index << KVM_ARM_IRQ_VCPU_SHIFT | KVM_ARM_IRQ_CPU_IRQ,
		.level = (uint32_t)level,
	};

	return ioctl(cpu->vm_fd, KVM_IRQ_LINE, &line) ? -errno : 0;
}

/* The kernel interrupts the guest, or wakes it from WFI. */
int hfs_set_line(struct hfs_cpu *cpu, int level)
{
	int error = 0;

	atomic_fetch_add(&cpu->users, 1);
	atomic_store(&cpu->line, level);
	if (!atomic_load(&cpu->closed))
		error = hfs_update_line(cpu, level);
	atomic_fetch_sub(&cpu->users, 1);
	return error;
}

int hfs_complete_mmio(struct hfs_cpu *cpu, uint64_t value)
{
	cpu->access_unanswered = 0;
	if (!cpu->run->mmio.is_write)
		memcpy(cpu->run->mmio.data, &value, 8);
	return 0;
}

int hfs_cancel_access(struct hfs_cpu *cpu)
{
	uint64_t before[31], pc;
	int index, error;

	cpu->access_unanswered = 0;
	error = hfs_get_one(cpu, CORE(regs.pc), &pc);
	for (index = 0; !error && index < 31; index++)
		error = hfs_get_one(cpu, GENERAL(index), &before[index]);
	if (!error)
		error = hfs_complete_pending(cpu);
	for (index = 0; !error && index < 31; index++)
		error = hfs_put_one(cpu, GENERAL(index), before[index]);
	if (!error)
		error = hfs_put_one(cpu, CORE(regs.pc), pc);
	return error ? error : HFS_ACCESS_REPEATS;
}

/*
 * The access is cancelled, and the kernel makes the abort, with the address that the guest used.  Its
 * syndrome lacks the bit of a write, which is set here, after the abort was taken.
 */
int hfs_inject_abort(struct hfs_cpu *cpu, int fetch)
{
	struct kvm_vcpu_events events;
	uint64_t syndrome;
	int error = hfs_cancel_access(cpu);

	(void)fetch;
	if (error)
		return error;
	if (ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events))
		return -errno;
	events.exception.ext_dabt_pending = 1;
	if (ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events))
		return -errno;
	error = hfs_complete_pending(cpu);
	if (error || !cpu->exit.write)
		return error;
	error = hfs_get_one(cpu, ESR_EL1, &syndrome);
	return error ? error : hfs_put_one(cpu, ESR_EL1, syndrome | ESR_WRITE);
}
