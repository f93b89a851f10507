/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the units of the core use of each other; not for callers.  The rules of core.h apply.
 */
#ifndef HFSCHED_KVM_INTERNAL_H
#define HFSCHED_KVM_INTERNAL_H

#include "core.h"

/* Besides `enum hfs_exit_kind`: there is no exit to report, hfs_enter (again) runs the guest. */
enum { HFS_NO_EXIT = -1 };

/* --- run.c --- */

/* Return the signal of kicks; 0 before hfs_prepare. */
int hfs_kick_signal(void);

/* Return the calling thread's id. */
int hfs_thread_id(void);

/* Make a KVM_RUN that another thread is in, or about to begin, return.  Any thread. */
void hfs_interrupt_run(struct hfs_cpu *cpu);

/* Complete what KVM holds pending (an MMIO read, an I/O, an abort) without running the guest. */
int hfs_complete_pending(struct hfs_cpu *cpu);

/* Describe a KVM_EXIT_MMIO in `exit`.  Returns HFS_MMIO. */
int hfs_mmio_exit(struct hfs_cpu *cpu);

/* --- Each architecture: arm64_*.c, x86_64_*.c --- */

/* Called at the end of hfs_open, and at the beginning of hfs_close. */
int hfs_arch_open(struct hfs_cpu *cpu, int kvm_fd);
void hfs_arch_close(struct hfs_cpu *cpu);

/* Called before each KVM_RUN: write the reply, deliver what is due.  Returns HFS_NO_EXIT to run the
   guest, or an `enum hfs_exit_kind`. */
int hfs_arch_before_run(struct hfs_cpu *cpu);

/* Called after each KVM_RUN; `error` is its errno, 0 for success.  Decodes the exit into `exit`.
   Returns HFS_NO_EXIT to run the guest again, or an `enum hfs_exit_kind`. */
int hfs_arch_after_run(struct hfs_cpu *cpu, int error);

#endif
