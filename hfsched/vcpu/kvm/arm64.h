/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the arm64 units share: registers by KVM_GET_ONE_REG and KVM_SET_ONE_REG.
 */
#ifndef HFSCHED_KVM_ARM64_H
#define HFSCHED_KVM_ARM64_H

#include "internal.h"

#include <stddef.h>

#define CORE(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))
#define GENERAL(n) (CORE(regs.regs[0]) + (n) * (sizeof(uint64_t) / sizeof(uint32_t)))

/* Read or write a register of 64 bits.  Return 0 or -errno. */
int hfs_get_one(struct hfs_cpu *cpu, uint64_t id, uint64_t *value);
int hfs_put_one(struct hfs_cpu *cpu, uint64_t id, uint64_t value);

/* Set the system registers of EL1, and the virtual timer's, to 0.  Return 0 or -errno. */
int hfs_zero_system(struct hfs_cpu *cpu);

/* Write the pending reply to the registers.  Return 0 or -errno. */
int hfs_write_reply(struct hfs_cpu *cpu);

/* Complete what KVM holds pending, unless the vCPU has never run.  Return 0 or -errno. */
int hfs_complete_if_ran(struct hfs_cpu *cpu);

/* Make the kernel's interrupt line show `level`, 0 or 1.  Return 0 or -errno. */
int hfs_update_line(struct hfs_cpu *cpu, int level);

/* Make KVM's registers the guest's: complete what is pending, except an unanswered access, and write
   the reply.  Return 0 or -errno. */
int hfs_settle_registers(struct hfs_cpu *cpu);

#endif
