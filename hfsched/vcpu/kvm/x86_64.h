/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the x86-64 units share.  The ABI is in docs/x86-abi.md.
 */
#ifndef HFSCHED_KVM_X86_64_H
#define HFSCHED_KVM_X86_64_H

#include "internal.h"

/* The argument of KVM_GET_MSRS and KVM_SET_MSRS for one register. */
struct one_msr {
	struct kvm_msrs header;
	struct kvm_msr_entry entry;
};

/* The general registers in the page shared with KVM (KVM_SYNC_X86_REGS), valid after an exit. */
static inline struct kvm_regs *hfs_registers(struct hfs_cpu *cpu)
{
	return &cpu->run->s.regs.regs;
}

/* XSTATE_BV says which parts of an XSAVE area are not in their initial state; KVM writes the initial
   values where a bit is clear.  Whether it is clear for equal values depends on the host's processor:
   set, x87 and SSE state has one form.  The index is that of XSTATE_BV in `struct kvm_xsave`. */
#define HFS_XSTATE_BV (512 / sizeof(uint32_t))
#define HFS_X87_AND_SSE 3

/* Return the guest's clock in ns. */
int64_t hfs_guest_now(const struct hfs_cpu *cpu);

/* Make the kick signal interrupt the calling thread when the guest's clock shows `deadline` ns,
   or free the timer that does so.  Return 0 or -errno. */
int hfs_set_alarm(struct hfs_cpu *cpu, int64_t deadline);
void hfs_free_alarm(struct hfs_cpu *cpu);

/* Handle the timer hypercall: RAX is the operation. */
void hfs_timer_call(struct hfs_cpu *cpu);

/* Write the pending reply to the shared page. */
void hfs_write_reply(struct hfs_cpu *cpu);

/* Discard what KVM holds pending; the general registers are lost.  Return 0 or -errno. */
int hfs_discard_pending(struct hfs_cpu *cpu);

/* Make KVM's registers the guest's: complete what is pending, except an unanswered access, and write
   the reply.  Return 0 or -errno. */
int hfs_settle_registers(struct hfs_cpu *cpu);

#endif
