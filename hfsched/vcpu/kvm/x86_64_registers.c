/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * x86-64: registers by their architectural names.
 */
#include "x86_64.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

enum { MSRS = 8 };

struct all {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave; /* its first 512 bytes are as FXSAVE writes them */
	uint64_t msrs[MSRS];
	bool has_msr[MSRS];
	bool has_xsave;
};

static const uint32_t msrs[MSRS] = {
	0xc0000102, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0x174, 0x175, 0x176,
};

#define GENERAL(name) {{#name, 8}, offsetof(struct all, regs.name)}
#define SELECTOR(name) {{#name, 2}, offsetof(struct all, sregs.name.selector)}
#define CONTROL(name) {{#name, 8}, offsetof(struct all, sregs.name)}
#define FLOAT(name, size, at) {{name, size}, offsetof(struct all, xsave.region) + (at)}
#define ST(n) FLOAT("st" #n, 10, 32 + 16 * (n))
#define XMM(n) FLOAT("xmm" #n, 16, 160 + 16 * (n))
#define IS_FLOAT(offset) ((offset) - offsetof(struct all, xsave) < sizeof(struct kvm_xsave))
#define MSR(name, n) {{name, 8}, offsetof(struct all, msrs[n])}

/* hfsched/vcpu/registers.py has the same names.  A segment's selector is that alone: its base, limit
   and attributes stay, except for fs_base and gs_base. */
static const struct {
	struct hfs_register public;
	uint32_t offset;
} table[] = {
	GENERAL(rax), GENERAL(rbx), GENERAL(rcx), GENERAL(rdx), GENERAL(rsi),
	GENERAL(rdi), GENERAL(rbp), GENERAL(rsp), GENERAL(r8), GENERAL(r9),
	GENERAL(r10), GENERAL(r11), GENERAL(r12), GENERAL(r13), GENERAL(r14),
	GENERAL(r15), GENERAL(rip), GENERAL(rflags),
	SELECTOR(cs), SELECTOR(ss), SELECTOR(ds),
	SELECTOR(es), SELECTOR(fs), SELECTOR(gs),
	{{"fs_base", 8}, offsetof(struct all, sregs.fs.base)},
	{{"gs_base", 8}, offsetof(struct all, sregs.gs.base)},
	ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7),
	FLOAT("fctrl", 2, 0), FLOAT("fstat", 2, 2), FLOAT("ftag", 1, 4),
	FLOAT("fop", 2, 6), FLOAT("fip", 8, 8), FLOAT("fdp", 8, 16),
	XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7),
	XMM(8), XMM(9), XMM(10), XMM(11), XMM(12), XMM(13), XMM(14), XMM(15),
	FLOAT("mxcsr", 4, 24),
	CONTROL(cr0), CONTROL(cr2), CONTROL(cr3), CONTROL(cr4), CONTROL(cr8), CONTROL(efer),
	{{"gdtr_base", 8}, offsetof(struct all, sregs.gdt.base)},
	{{"gdtr_limit", 2}, offsetof(struct all, sregs.gdt.limit)},
	{{"idtr_base", 8}, offsetof(struct all, sregs.idt.base)},
	{{"idtr_limit", 2}, offsetof(struct all, sregs.idt.limit)},
	MSR("kernel_gs_base", 0), MSR("star", 1), MSR("lstar", 2), MSR("cstar", 3), MSR("sfmask", 4),
	MSR("sysenter_cs", 5), MSR("sysenter_esp", 6), MSR("sysenter_eip", 7),
};

enum { COUNT = sizeof(table) / sizeof(table[0]) };

const struct hfs_register *hfs_register(uint32_t index)
{
	return index < COUNT ? &table[index].public : NULL;
}

static int read_all(struct hfs_cpu *cpu, struct all *all)
{
	int index;

	memset(all, 0, sizeof(*all));
	if (ioctl(cpu->fd, KVM_GET_REGS, &all->regs) || ioctl(cpu->fd, KVM_GET_SREGS, &all->sregs))
		return -errno;
	/* Not KVM_GET_FPU, which leaves out MXCSR. */
	all->has_xsave = !ioctl(cpu->fd, KVM_GET_XSAVE, &all->xsave);
	for (index = 0; index < MSRS; index++) {
		struct one_msr one = {.header = {.nmsrs = 1}, .entry = {.index = msrs[index]}};

		all->has_msr[index] = ioctl(cpu->fd, KVM_GET_MSRS, &one) == 1;
		all->msrs[index] = one.entry.data;
	}
	return 0;
}

/* Return the index in `msrs` of a register of the table, -1 for one that is no MSR. */
static int msr_of(uint32_t index)
{
	uint32_t first = offsetof(struct all, msrs), offset = table[index].offset;

	return offset < first ? -1 : (int)((offset - first) / sizeof(uint64_t));
}

static bool has(const struct all *all, uint32_t index)
{
	int msr = msr_of(index);

	if (msr >= 0)
		return all->has_msr[msr];
	return all->has_xsave || !IS_FLOAT(table[index].offset);
}

int hfs_get_registers(struct hfs_cpu *cpu, uint8_t *values, uint8_t *known)
{
	struct all all;
	uint32_t index;
	int error = hfs_settle_registers(cpu);

	if (!error)
		error = read_all(cpu, &all);
	if (error)
		return error;
	memset(values, 0, COUNT * HFS_REGISTER_SLOT);
	for (index = 0; index < COUNT; index++) {
		known[index] = has(&all, index);
		memcpy(&values[index * HFS_REGISTER_SLOT], (uint8_t *)&all + table[index].offset,
		       table[index].public.size);
	}
	return 0;
}

int hfs_set_registers(struct hfs_cpu *cpu, const uint8_t *values, const uint8_t *wanted)
{
	struct all all;
	struct kvm_vcpu_events events;
	bool floats = false;
	uint32_t index;
	int error = cpu->access_unanswered ? -EBUSY : hfs_settle_registers(cpu);

	if (!error)
		error = read_all(cpu, &all);
	if (error)
		return error;
	for (index = 0; index < COUNT; index++) {
		if (!wanted[index])
			continue;
		if (!has(&all, index))
			return -ENOENT;
		floats |= IS_FLOAT(table[index].offset);
		memcpy((uint8_t *)&all + table[index].offset, &values[index * HFS_REGISTER_SLOT],
		       table[index].public.size);
	}
	if (floats) {
		all.xsave.region[HFS_XSTATE_BV] |= HFS_X87_AND_SSE;
		if (ioctl(cpu->fd, KVM_SET_XSAVE, &all.xsave))
			return -errno;
	}
	/* KVM_SET_REGS drops a pending exception. */
	if (ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events) ||
	    ioctl(cpu->fd, KVM_SET_SREGS, &all.sregs) || ioctl(cpu->fd, KVM_SET_REGS, &all.regs) ||
	    ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events))
		return -errno;
	for (index = 0; index < COUNT; index++) {
		int msr = msr_of(index);
		struct one_msr one = {.header = {.nmsrs = 1}};

		if (!wanted[index] || msr < 0)
			continue;
		one.entry.index = msrs[msr];
		one.entry.data = all.msrs[msr];
		if (ioctl(cpu->fd, KVM_SET_MSRS, &one) != 1)
			return -EINVAL;
	}
	*hfs_registers(cpu) = all.regs;
	cpu->run->kvm_dirty_regs = 0;
	cpu->run->cr8 = all.sregs.cr8; /* KVM takes it from here at each entry */
	/* Unknown until the next exit, which is requested if the line is up. */
	cpu->run->ready_for_interrupt_injection = 0;
	cpu->run->if_flag = 0;
	return 0;
}
