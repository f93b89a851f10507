/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * x86-64: entering the guest, and decoding why it left.
 *
 * Hypercalls are `out` to a port, with the registers in the shared page: one ioctl a hypercall.
 */
#include "x86_64.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define PORT_HVC 0x48
#define PORT_SMC 0x53
#define PORT_TIMER 0x54
#define VECTOR 0x20
#define MAX_INSTRUCTION 15 /* bytes */
#define ABORT (1U << 14) /* not 16, which VMX has no room for */

/* The register that is x0, x1, ... of the calling convention. */
static uint64_t *argument(struct kvm_regs *regs, int index)
{
	switch (index) {
	case 0: return (uint64_t *)&regs->rax;
	case 1: return (uint64_t *)&regs->rdi;
	case 2: return (uint64_t *)&regs->rsi;
	case 3: return (uint64_t *)&regs->rdx;
	case 4: return (uint64_t *)&regs->rcx;
	case 5: return (uint64_t *)&regs->r8;
	case 6: return (uint64_t *)&regs->r9;
	default: return (uint64_t *)&regs->r10;
	}
}

int hfs_arguments(struct hfs_cpu *cpu, uint32_t count, uint64_t *out)
{
	uint32_t index;

	if (count > HFS_ARGUMENTS)
		return -EINVAL;
	for (index = 0; index < count; index++)
		out[index] = *argument(hfs_registers(cpu), (int)index);
	return 0;
}

void hfs_write_reply(struct hfs_cpu *cpu)
{
	int index;

	for (index = 0; index < (int)cpu->reply.count; index++)
		*argument(hfs_registers(cpu), index) = cpu->reply.values[index];
	cpu->reply.count = 0;
	cpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

/* `error` is errno. */
static int ioctl_failed(struct hfs_cpu *cpu, int error)
{
	cpu->exit.reason = HFS_REASON_ERRNO;
	cpu->exit.detail = (uint64_t)error;
	cpu->exit.address = hfs_registers(cpu)->rip;
	return HFS_FAILED;
}

int hfs_arch_before_run(struct hfs_cpu *cpu)
{
	struct kvm_run *run = cpu->run;

	if (cpu->reply.count)
		hfs_write_reply(cpu);
	if (cpu->deadline >= 0) {
		int error;

		if (hfs_guest_now(cpu) >= cpu->deadline)
			return HFS_TIMER;
		error = hfs_set_alarm(cpu, cpu->deadline);
		if (error)
			return ioctl_failed(cpu, -error);
	}
	run->request_interrupt_window = 0;
	if (atomic_load(&cpu->line)) {
		if (run->ready_for_interrupt_injection && run->if_flag) {
			struct kvm_interrupt interrupt = {.irq = VECTOR};

			/* Not again until KVM reports that it can take one. */
			run->ready_for_interrupt_injection = 0;
			if (ioctl(cpu->fd, KVM_INTERRUPT, &interrupt))
				return ioctl_failed(cpu, errno);
		} else {
			run->request_interrupt_window = 1;
		}
	}
	return HFS_NO_EXIT;
}

static int port(struct hfs_cpu *cpu)
{
	struct kvm_run *run = cpu->run;
	int index;

	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset((uint8_t *)run + run->io.data_offset, 0xff,
		       (size_t)run->io.size * run->io.count);
		return HFS_NO_EXIT;
	}
	if (run->io.size != 4 || run->io.count != 1)
		return HFS_NO_EXIT;
	if (run->io.port == PORT_TIMER) {
		hfs_timer_call(cpu);
		return HFS_NO_EXIT;
	}
	if (run->io.port != PORT_HVC && run->io.port != PORT_SMC)
		return HFS_NO_EXIT;
	for (index = 0; index < HFS_ARGUMENTS; index++)
		cpu->exit.args[index] = *argument(hfs_registers(cpu), index);
	return run->io.port == PORT_HVC ? HFS_HVC : HFS_SMC;
}

/* Describe an instruction that KVM could not emulate as HFS_FETCH: there may be no memory.  Return
   false where KVM_TRANSLATE finds no address. */
static bool describe_fetch(struct hfs_cpu *cpu)
{
	uint64_t rip = hfs_registers(cpu)->rip, beyond = (rip | 4095) + 1;
	struct kvm_translation first = {.linear_address = rip};
	struct kvm_translation next = {.linear_address = beyond};

	if (ioctl(cpu->fd, KVM_TRANSLATE, &first) || !first.valid)
		return false;
	cpu->exit.virtual_address = rip;
	cpu->exit.address = cpu->exit.value = first.physical_address;
	if (beyond - rip < MAX_INSTRUCTION && !ioctl(cpu->fd, KVM_TRANSLATE, &next) && next.valid)
		cpu->exit.value = next.physical_address;
	/* KVM has queued an undefined instruction exception; this cancels it. */
	return !ioctl(cpu->fd, KVM_SET_REGS, hfs_registers(cpu));
}

static int failed(struct hfs_cpu *cpu)
{
	struct kvm_run *run = cpu->run;

	cpu->exit.reason = run->exit_reason;
	cpu->exit.detail = 0;
	cpu->exit.address = hfs_registers(cpu)->rip;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
		cpu->exit.detail = run->internal.suberror;
		if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && describe_fetch(cpu))
			return HFS_FETCH;
	} else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
		cpu->exit.detail = run->fail_entry.hardware_entry_failure_reason;
	}
	return HFS_FAILED;
}

int hfs_arch_after_run(struct hfs_cpu *cpu, int error)
{
	struct kvm_run *run = cpu->run;

	cpu->read_unfinished = 0;
	if (error == EINTR || error == EAGAIN)
		return HFS_NO_EXIT; /* hfs_enter reads the flags */
	if (error)
		return ioctl_failed(cpu, error);
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return port(cpu);
	case KVM_EXIT_HLT:
		return atomic_load(&cpu->line) ? HFS_NO_EXIT : HFS_WFI;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
	case KVM_EXIT_SET_TPR: /* CR8 was lowered; no interrupt depends on it */
		return HFS_NO_EXIT;
	case KVM_EXIT_MMIO:
		return hfs_mmio_exit(cpu);
	default:
		return failed(cpu);
	}
}

int hfs_set_line(struct hfs_cpu *cpu, int level)
{
	/* Lowering needs no exit: HF_INTERRUPT_GET then answers that none is pending. */
	if (!atomic_exchange(&cpu->line, level) && level)
		hfs_interrupt_run(cpu);
	return 0;
}

int hfs_discard_pending(struct hfs_cpu *cpu)
{
	struct kvm_regs regs = *hfs_registers(cpu);

	regs.rcx = 1; /* a string instruction ends here */
	cpu->access_unanswered = 0;
	cpu->read_unfinished = 0;
	if (ioctl(cpu->fd, KVM_SET_REGS, &regs))
		return -errno;
	cpu->run->kvm_dirty_regs = 0;
	return hfs_complete_pending(cpu);
}

int hfs_complete_mmio(struct hfs_cpu *cpu, uint64_t value)
{
	cpu->access_unanswered = 0;
	cpu->read_unfinished = !cpu->run->mmio.is_write;
	if (cpu->read_unfinished)
		memcpy(cpu->run->mmio.data, &value, 8);
	return 0;
}

/* KVM reports a write when its instruction is complete except for the write. */
int hfs_cancel_access(struct hfs_cpu *cpu)
{
	struct kvm_regs before = *hfs_registers(cpu);
	int error;

	if (cpu->exit.write) {
		cpu->access_unanswered = 0;
		return HFS_WRITE_REMAINS;
	}
	error = hfs_discard_pending(cpu);
	if (error)
		return error;
	*hfs_registers(cpu) = before;
	return ioctl(cpu->fd, KVM_SET_REGS, &before) ? -errno : HFS_ACCESS_REPEATS;
}

/* A page fault with an error code that no CPU makes: docs/x86-abi.md. */
int hfs_inject_abort(struct hfs_cpu *cpu, int fetch)
{
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	int error = fetch ? 0 : hfs_cancel_access(cpu);

	if (error == HFS_WRITE_REMAINS)
		error = hfs_complete_pending(cpu);
	if (error)
		return error;
	cpu->run->ready_for_interrupt_injection = 0;
	if (ioctl(cpu->fd, KVM_GET_SREGS, &sregs))
		return -errno;
	sregs.cr2 = cpu->exit.address;
	if (ioctl(cpu->fd, KVM_SET_SREGS, &sregs) || ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events))
		return -errno;
	events.interrupt.injected = 0; /* the line is still up: delivered after the abort */
	events.exception.injected = 1;
	events.exception.nr = 14;
	events.exception.has_error_code = 1;
	events.exception.error_code =
		ABORT | (fetch ? 1U << 4 : cpu->exit.write ? 1U << 1 : 0);
	return ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events) ? -errno : 0;
}
