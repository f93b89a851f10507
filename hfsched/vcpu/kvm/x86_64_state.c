/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * x86-64: all of a vCPU's registers at once, at its start and in a snapshot.
 */
#include "x86_64.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define PAT 0x277
#define PAT_AT_RESET 0x0007040600070406

static const uint32_t msrs[] = {
	0x174, 0x175, 0x176,			/* SYSENTER_CS, _ESP, _EIP */
	PAT,
	0xc0000081, 0xc0000082, 0xc0000083,	/* STAR, LSTAR, CSTAR */
	0xc0000084, 0xc0000102,			/* SFMASK, KERNEL_GS_BASE */
};

static void flat(struct kvm_segment *segment, int code)
{
	memset(segment, 0, sizeof(*segment));
	segment->limit = 0xffffffff;
	segment->selector = code ? 0x08 : 0x10;
	segment->type = code ? 11 : 3;
	segment->present = 1;
	segment->s = 1;
	segment->g = 1;
	segment->l = code;
	segment->db = !code;
}

int hfs_reset(struct hfs_cpu *cpu, uint64_t pc, uint64_t argument)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_fpu fpu;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug = {.dr6 = 0xffff0ff0, .dr7 = 0x400};
	unsigned int index;
	int error = hfs_discard_pending(cpu);

	if (error)
		return error;
	if (ioctl(cpu->fd, KVM_GET_SREGS, &sregs))
		return -errno;
	flat(&sregs.cs, 1);
	flat(&sregs.ds, 0);
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	memset(&sregs.ldt, 0, sizeof(sregs.ldt));
	sregs.ldt.unusable = 1;
	sregs.ldt.type = 2;
	memset(&sregs.tr, 0, sizeof(sregs.tr));
	sregs.tr.type = 11;
	sregs.tr.present = 1;
	sregs.tr.limit = 0xffff;
	memset(&sregs.gdt, 0, sizeof(sregs.gdt));
	memset(&sregs.idt, 0, sizeof(sregs.idt));
	sregs.cr0 = 0x80010031; /* PG WP NE ET PE */
	sregs.cr2 = 0;
	sregs.cr3 = cpu->tables;
	sregs.cr4 = 0x20; /* PAE */
	sregs.cr8 = 0;
	sregs.efer = 0xd00; /* LME LMA NXE */
	memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
	if (ioctl(cpu->fd, KVM_SET_SREGS, &sregs))
		return -errno;
	memset(&regs, 0, sizeof(regs));
	regs.rip = pc;
	regs.rdi = argument;
	regs.rflags = 2;
	if (ioctl(cpu->fd, KVM_SET_REGS, &regs))
		return -errno;
	memset(&fpu, 0, sizeof(fpu));
	fpu.fcw = 0x37f;
	fpu.mxcsr = 0x1f80;
	if (ioctl(cpu->fd, KVM_SET_FPU, &fpu))
		return -errno;
	memset(&events, 0, sizeof(events));
	if (ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events) ||
	    ioctl(cpu->fd, KVM_SET_DEBUGREGS, &debug))
		return -errno;
	for (index = 0; index < sizeof(msrs) / sizeof(msrs[0]); index++) {
		struct one_msr one = {.header = {.nmsrs = 1}, .entry = {.index = msrs[index]}};

		one.entry.data = msrs[index] == PAT ? PAT_AT_RESET : 0;
		if (ioctl(cpu->fd, KVM_SET_MSRS, &one) < 0)
			return -errno; /* 0: this CPU has no such register */
	}
	cpu->run->s.regs.regs = regs;
	cpu->run->kvm_dirty_regs = 0;
	cpu->run->cr8 = 0; /* KVM takes it from here at each entry */
	cpu->run->ready_for_interrupt_injection = 0;
	cpu->run->if_flag = 0;
	cpu->reply.count = 0;
	cpu->deadline = -1;
	return 0;
}

struct saved {
	uint8_t magic[8];
	int64_t left; /* ns until the timer fires; negative: stopped */
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_xsave xsave;
	uint32_t has_xsave;
	uint32_t known[sizeof(msrs) / sizeof(msrs[0])];
	uint64_t values[sizeof(msrs) / sizeof(msrs[0])];
};

static const uint8_t magic[8] = "hfs-kx1";

int hfs_settle_registers(struct hfs_cpu *cpu)
{
	if (!cpu->access_unanswered) {
		/* Completing a read could run into the next access, which needs an answer. */
		int error = cpu->read_unfinished ? hfs_cancel_access(cpu) : hfs_complete_pending(cpu);

		if (error)
			return error;
	}
	if (cpu->reply.count) {
		hfs_write_reply(cpu);
		cpu->run->kvm_dirty_regs = 0;
		if (ioctl(cpu->fd, KVM_SET_REGS, hfs_registers(cpu)))
			return -errno;
	}
	return 0;
}

int hfs_saved_size(void)
{
	return sizeof(struct saved);
}

int hfs_save(struct hfs_cpu *cpu, uint8_t *out, int size)
{
	struct saved *saved = (struct saved *)out;
	unsigned int index;
	int error;

	if (size != sizeof(*saved))
		return -EINVAL;
	memset(saved, 0, sizeof(*saved));
	memcpy(saved->magic, magic, sizeof(magic));
	saved->left = -1;
	error = hfs_settle_registers(cpu);
	if (error)
		return error;
	hfs_timer_remaining(cpu, &saved->left);
	if (ioctl(cpu->fd, KVM_GET_REGS, &saved->regs) ||
	    ioctl(cpu->fd, KVM_GET_SREGS, &saved->sregs) ||
	    ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &saved->events) ||
	    ioctl(cpu->fd, KVM_GET_DEBUGREGS, &saved->debug))
		return -errno;
	saved->has_xsave = !ioctl(cpu->fd, KVM_GET_XSAVE, &saved->xsave);
	if (saved->has_xsave)
		saved->xsave.region[HFS_XSTATE_BV] |= HFS_X87_AND_SSE;
	for (index = 0; index < sizeof(msrs) / sizeof(msrs[0]); index++) {
		struct one_msr one = {.header = {.nmsrs = 1}, .entry = {.index = msrs[index]}};

		saved->known[index] = ioctl(cpu->fd, KVM_GET_MSRS, &one) == 1;
		saved->values[index] = one.entry.data;
	}
	return 0;
}

int hfs_restore(struct hfs_cpu *cpu, const uint8_t *in, int size)
{
	struct saved saved;
	unsigned int index;
	int error;

	if (size != sizeof(saved))
		return -EINVAL;
	memcpy(&saved, in, sizeof(saved));
	if (memcmp(saved.magic, magic, sizeof(magic)))
		return -EINVAL;
	error = hfs_discard_pending(cpu);
	if (error)
		return error;
	if (ioctl(cpu->fd, KVM_SET_SREGS, &saved.sregs) ||
	    ioctl(cpu->fd, KVM_SET_REGS, &saved.regs) ||
	    ioctl(cpu->fd, KVM_SET_DEBUGREGS, &saved.debug) ||
	    (saved.has_xsave && ioctl(cpu->fd, KVM_SET_XSAVE, &saved.xsave)) ||
	    ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &saved.events))
		return -errno;
	for (index = 0; index < sizeof(msrs) / sizeof(msrs[0]); index++) {
		struct one_msr one = {.header = {.nmsrs = 1},
				      .entry = {.index = msrs[index], .data = saved.values[index]}};

		if (saved.known[index] && ioctl(cpu->fd, KVM_SET_MSRS, &one) != 1)
			return -EIO;
	}
	cpu->run->s.regs.regs = saved.regs;
	cpu->run->kvm_dirty_regs = 0;
	cpu->run->cr8 = saved.sregs.cr8;
	cpu->run->ready_for_interrupt_injection = 0;
	cpu->run->if_flag = 0;
	cpu->reply.count = 0;
	cpu->deadline = -1;
	if (saved.left >= 0) {
		int64_t here = hfs_guest_now(cpu);

		cpu->deadline = saved.left > INT64_MAX - here ? INT64_MAX : here + saved.left;
	}
	return 0;
}

/* There are none: the clock is saved as an offset. */
void hfs_clear_counters(uint8_t *saved)
{
	(void)saved;
}

int hfs_translate(struct hfs_cpu *cpu, uint64_t address, uint64_t *physical)
{
	struct kvm_translation found = {.linear_address = address};

	if (ioctl(cpu->fd, KVM_TRANSLATE, &found))
		return -errno;
	*physical = found.physical_address;
	return found.valid ? 0 : -ENOENT;
}

int hfs_last_exception(struct hfs_cpu *cpu, struct hfs_exception *found)
{
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;

	if (ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events) || ioctl(cpu->fd, KVM_GET_SREGS, &sregs))
		return -errno;
	found->address = sregs.cr2;
	found->vector = events.exception.nr;
	found->error = events.exception.has_error_code ? events.exception.error_code : 0;
	return 0;
}

int hfs_program_counter(struct hfs_cpu *cpu, uint64_t *pc)
{
	struct kvm_regs regs;

	if (ioctl(cpu->fd, KVM_GET_REGS, &regs))
		return -errno;
	*pc = regs.rip;
	return 0;
}
