/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * arm64: registers by their architectural names, each by its id of KVM_GET_ONE_REG.
 */
#include "arm64.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define WIDE(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U128 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))
#define WORD(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U32 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))
#define VECTOR(n) (WIDE(fp_regs.vregs[0]) + (n) * (16 / sizeof(uint32_t)))
#define X(n) {{"x" #n, 8}, GENERAL(n)}
#define V(n) {{"v" #n, 16}, VECTOR(n)}
#define SYSTEM(name, ...) {{name, 8}, ARM64_SYS_REG(__VA_ARGS__)}

/* hfsched/vcpu/registers.py has the same names. */
static const struct {
	struct hfs_register public;
	uint64_t id;
} table[] = {
	X(0), X(1), X(2), X(3), X(4), X(5), X(6), X(7),
	X(8), X(9), X(10), X(11), X(12), X(13), X(14), X(15),
	X(16), X(17), X(18), X(19), X(20), X(21), X(22), X(23),
	X(24), X(25), X(26), X(27), X(28), X(29), X(30),
	{{"sp_el0", 8}, CORE(regs.sp)},
	{{"sp_el1", 8}, CORE(sp_el1)},
	{{"pc", 8}, CORE(regs.pc)},
	{{"pstate", 8}, CORE(regs.pstate)},
	{{"elr_el1", 8}, CORE(elr_el1)},
	{{"spsr_el1", 8}, CORE(spsr[KVM_SPSR_EL1])},
	V(0), V(1), V(2), V(3), V(4), V(5), V(6), V(7),
	V(8), V(9), V(10), V(11), V(12), V(13), V(14), V(15),
	V(16), V(17), V(18), V(19), V(20), V(21), V(22), V(23),
	V(24), V(25), V(26), V(27), V(28), V(29), V(30), V(31),
	{{"fpsr", 4}, WORD(fp_regs.fpsr)},
	{{"fpcr", 4}, WORD(fp_regs.fpcr)},
	SYSTEM("sctlr_el1", 3, 0, 1, 0, 0),
	SYSTEM("cpacr_el1", 3, 0, 1, 0, 2),
	SYSTEM("ttbr0_el1", 3, 0, 2, 0, 0),
	SYSTEM("ttbr1_el1", 3, 0, 2, 0, 1),
	SYSTEM("tcr_el1", 3, 0, 2, 0, 2),
	SYSTEM("apiakeylo_el1", 3, 0, 2, 1, 0),
	SYSTEM("apiakeyhi_el1", 3, 0, 2, 1, 1),
	SYSTEM("apibkeylo_el1", 3, 0, 2, 1, 2),
	SYSTEM("apibkeyhi_el1", 3, 0, 2, 1, 3),
	SYSTEM("apdakeylo_el1", 3, 0, 2, 2, 0),
	SYSTEM("apdakeyhi_el1", 3, 0, 2, 2, 1),
	SYSTEM("apdbkeylo_el1", 3, 0, 2, 2, 2),
	SYSTEM("apdbkeyhi_el1", 3, 0, 2, 2, 3),
	SYSTEM("apgakeylo_el1", 3, 0, 2, 3, 0),
	SYSTEM("apgakeyhi_el1", 3, 0, 2, 3, 1),
	SYSTEM("esr_el1", 3, 0, 5, 2, 0),
	SYSTEM("far_el1", 3, 0, 6, 0, 0),
	SYSTEM("par_el1", 3, 0, 7, 4, 0),
	SYSTEM("mair_el1", 3, 0, 10, 2, 0),
	SYSTEM("amair_el1", 3, 0, 10, 3, 0),
	SYSTEM("vbar_el1", 3, 0, 12, 0, 0),
	SYSTEM("contextidr_el1", 3, 0, 13, 0, 1),
	SYSTEM("tpidr_el1", 3, 0, 13, 0, 4),
	SYSTEM("cntkctl_el1", 3, 0, 14, 1, 0),
	SYSTEM("csselr_el1", 3, 2, 0, 0, 0),
	SYSTEM("tpidr_el0", 3, 3, 13, 0, 2),
	SYSTEM("tpidrro_el0", 3, 3, 13, 0, 3),
	{{"cntv_ctl_el0", 8}, KVM_REG_ARM_TIMER_CTL},
	/* The ids of CNTV_CVAL and CNTVCT were swapped when they were defined. */
	{{"cntv_cval_el0", 8}, KVM_REG_ARM_TIMER_CVAL},
};

enum { COUNT = sizeof(table) / sizeof(table[0]) };

const struct hfs_register *hfs_register(uint32_t index)
{
	return index < COUNT ? &table[index].public : NULL;
}

/* KVM fills most of them with a pattern, and SCTLR_EL1 with its RES1 bits. */
int hfs_zero_system(struct hfs_cpu *cpu)
{
	static const uint64_t unnamed[] = {
		ARM64_SYS_REG(3, 0, 5, 1, 0), /* AFSR0_EL1 */
		ARM64_SYS_REG(3, 0, 5, 1, 1), /* AFSR1_EL1 */
	};
	uint32_t index, more = sizeof(unnamed) / sizeof(unnamed[0]);
	int error = 0;

	for (index = 0; !error && index < COUNT + more; index++) {
		uint64_t id = index < COUNT ? table[index].id : unnamed[index - COUNT];

		if ((id & KVM_REG_ARM_COPROC_MASK) == KVM_REG_ARM64_SYSREG)
			error = hfs_put_one(cpu, id, 0);
		if (error == -ENOENT) /* this CPU does not have it */
			error = 0;
	}
	return error;
}

int hfs_get_registers(struct hfs_cpu *cpu, uint8_t *values, uint8_t *known)
{
	uint32_t index;
	int error = hfs_settle_registers(cpu);

	if (error)
		return error;
	memset(values, 0, COUNT * HFS_REGISTER_SLOT);
	for (index = 0; index < COUNT; index++) {
		struct kvm_one_reg reg = {.id = table[index].id,
					  .addr = (uint64_t)(uintptr_t)&values[index * HFS_REGISTER_SLOT]};

		known[index] = !ioctl(cpu->fd, KVM_GET_ONE_REG, &reg);
		if (!known[index] && errno != ENOENT)
			return -errno;
	}
	return 0;
}

int hfs_set_registers(struct hfs_cpu *cpu, const uint8_t *values, const uint8_t *wanted)
{
	uint32_t index;
	int error = cpu->access_unanswered ? -EBUSY : hfs_settle_registers(cpu);

	if (error)
		return error;
	for (index = 0; index < COUNT; index++) {
		struct kvm_one_reg reg = {.id = table[index].id,
					  .addr = (uint64_t)(uintptr_t)&values[index * HFS_REGISTER_SLOT]};

		if (wanted[index] && ioctl(cpu->fd, KVM_SET_ONE_REG, &reg))
			return -errno;
	}
	return 0;
}
