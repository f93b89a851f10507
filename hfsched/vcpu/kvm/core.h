/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Entering a KVM guest: mechanism only, no policy.
 *
 * Ownership.  One `hfs_cpu` is one vCPU.  The caller allocates the struct and keeps it at one
 * address from hfs_open to hfs_free; the descriptor and the mapping in it belong to this core, the
 * VM's and /dev/kvm's descriptors to the caller.
 *
 * Threads.  One thread at a time, the owner, may call what takes an `hfs_cpu`, except hfs_kick,
 * hfs_force_exit, hfs_set_line, hfs_wait_outside and hfs_close, which any thread may call.
 *
 * Errors.  A function that returns int returns 0 or a positive code named at its declaration on
 * success, and -errno on failure, unless its comment says otherwise.
 *
 * Units.  Addresses and sizes are bytes, times are ns, ranges are [start, start + size): the end is
 * exclusive.  Registers hold 64 bits, the host's byte order.
 *
 * Source of the kernel's interface: Linux, Documentation/virt/kvm/api.rst.
 */
#ifndef HFSCHED_KVM_CORE_H
#define HFSCHED_KVM_CORE_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define HFS_ARGUMENTS 8 /* argument registers read at each hypercall: x0 to x7 */
#define HFS_REPLY_MAX 18 /* registers that an answer can write, from x0 on; on x86-64 eight */

/* Why hfs_enter returned, and which fields of `hfs_exit` are valid then. */
enum hfs_exit_kind {
	HFS_HVC,       /* args */
	HFS_SMC,       /* args */
	HFS_WFI,       /* none: the guest waits for an interrupt (x86-64) */
	HFS_TIMER,     /* none: the virtual timer fired */
	HFS_KICKED,    /* none: hfs_kick was called */
	HFS_FORCED,    /* none: hfs_force_exit was called */
	HFS_MMIO,      /* address, size, write, value */
	HFS_FETCH,     /* address, virtual_address, value: an instruction that KVM did not execute;
			  `value` is the physical address of the next page if it may reach there */
	HFS_UNDECODED, /* address, virtual_address, write: an access that KVM did not decode */
	HFS_FAILED,    /* reason, detail, address (of the instruction): KVM cannot run the vCPU */
};

/* `reason` of HFS_FAILED when an ioctl failed: `detail` is errno.  Else it is a KVM_EXIT_*. */
#define HFS_REASON_ERRNO 0xffffffffu

struct hfs_exit {
	uint64_t args[HFS_ARGUMENTS];
	uint64_t address; /* physical */
	uint64_t virtual_address; /* 0: KVM does not report it */
	uint64_t value; /* of a write */
	uint32_t size;
	uint32_t write; /* 0 or 1 */
	uint32_t reason;
	uint64_t detail;
};

struct hfs_cpu {
	/* Constant from hfs_open to hfs_close. */
	int fd;
	int vm_fd;
	int index;
	struct kvm_run *run;
	uint64_t run_size;

	/* Shared between threads. */
	atomic_int kicked;
	atomic_int forced;
	atomic_int line; /* the interrupt line: 0 or 1 */
	atomic_int thread; /* the thread inside hfs_enter, 0 if none; a futex */
	atomic_int closed;
	atomic_int users; /* calls of other threads in progress; hfs_close waits for them */
	atomic_int outside_awaited; /* a thread waits for `thread` to become 0 */

	/* The owner's. */
	struct hfs_exit exit; /* of the last hfs_enter */
	int access_unanswered; /* the last exit was HFS_MMIO, and KVM waits for its completion */
	int read_unfinished; /* x86-64: a read was answered; its instruction has not completed */
	int ran; /* KVM_RUN was called: KVM may hold something pending */
	struct { /* registers that the next entry writes: x0 to x(count - 1) */
		uint64_t count; /* 0 to HFS_REPLY_MAX, on x86-64 to HFS_ARGUMENTS */
		uint64_t values[HFS_REPLY_MAX];
	} reply;
	int frozen; /* the guest's counter shows frozen_count */
	uint64_t frozen_count;

	/* x86-64 only. */
	uint64_t tables; /* physical address of the first page tables; the caller sets it */
	int64_t deadline; /* of the paravirtual timer, on the guest's clock; negative: stopped */
	int64_t clock_offset; /* CLOCK_MONOTONIC minus the guest's clock */
	timer_t alarm; /* wakes the owner's thread at the deadline */
	int alarm_thread; /* the thread that `alarm` signals, 0 if there is no alarm */
	int64_t alarm_set; /* what it was set to */
};

/* --- The process and the VM --- */

/* Reserve an unused real-time signal for kicks, once for the process.  -EBUSY: all are used. */
int hfs_prepare(void);

/* Configure a new VM, before its first vCPU runs.  -EINVAL or -ENXIO on arm64: no SMCCC filter. */
int hfs_prepare_vm(int vm_fd);

/* Set memory slot `slot` of a VM: [ipa, ipa + size) backed by host memory at `host`, which the
   caller keeps mapped.  `size` 0 deletes the slot.  `flags`: 0 or KVM_MEM_READONLY. */
int hfs_set_memory(int vm_fd, uint32_t slot, uint32_t flags, uint64_t ipa, uint64_t size,
		   uint64_t host);

/* ioctl(2), with -errno for -1. */
int hfs_ioctl(int fd, unsigned long request, unsigned long argument);

/* --- A vCPU's life --- */

/* Create vCPU `index` (from 0) of a VM.  `run_size` is KVM_GET_VCPU_MMAP_SIZE of `kvm_fd`.  After
   a failure only hfs_free may be called. */
int hfs_open(struct hfs_cpu *cpu, int kvm_fd, int vm_fd, int index, uint64_t run_size);

/* Close the vCPU.  Calls from other threads, and an hfs_enter that begins too late, fail or do
   nothing, until hfs_free.  Does nothing the second time. */
void hfs_close(struct hfs_cpu *cpu);

/* Close the vCPU and unmap its page.  No other thread may use it any more. */
void hfs_free(struct hfs_cpu *cpu);

/* Return a descriptor of the vCPU's statistics (KVM_GET_STATS_FD), which the caller closes; it has
   to be opened before the first hfs_enter, which holds the vCPU's lock. */
int hfs_stats(struct hfs_cpu *cpu);

/* --- Running --- */

/* Write the pending reply, run the guest to its next exit, and fill `exit`.  Returns an
   `enum hfs_exit_kind`, never a negative number. */
int hfs_enter(struct hfs_cpu *cpu);

/* Store the argument registers x0 to x(count - 1) in `out`, after HFS_HVC or HFS_SMC and before the
   next hfs_enter.  -EINVAL: `count` is above HFS_REPLY_MAX, on x86-64 above HFS_ARGUMENTS. */
int hfs_arguments(struct hfs_cpu *cpu, uint32_t count, uint64_t *out);

/* Make the current or the next hfs_enter return HFS_KICKED (HFS_FORCED).  Never lost, never
   blocks; several calls before that return count as one. */
void hfs_kick(struct hfs_cpu *cpu);
void hfs_force_exit(struct hfs_cpu *cpu);

/* Wait until no other thread is inside hfs_enter; call hfs_force_exit before. */
void hfs_wait_outside(struct hfs_cpu *cpu);

/* Set the interrupt line to `level`, 0 or 1.  Never blocks. */
int hfs_set_line(struct hfs_cpu *cpu, int level);

/* Enter the guest `exits` times without decoding or answering: the baseline of bench/kvm.py. */
int hfs_bare_loop(struct hfs_cpu *cpu, int exits);

/* --- Answering HFS_MMIO, HFS_UNDECODED and HFS_FETCH --- */

/* Answer HFS_MMIO: a read gets `value`, and the next entry completes the instruction. */
int hfs_complete_mmio(struct hfs_cpu *cpu, uint64_t value);

enum hfs_cancelled {
	HFS_ACCESS_REPEATS, /* the next entry executes the whole access again */
	HFS_WRITE_REMAINS,  /* x86-64: the instruction is complete except for the write itself */
};

/* Leave HFS_MMIO or HFS_UNDECODED unanswered.  Returns an `enum hfs_cancelled` or -errno. */
int hfs_cancel_access(struct hfs_cpu *cpu);

/* Answer the last exit by an abort of the guest (x86-64: #PF, docs/x86-abi.md).  `fetch`: 0 or 1,
   whether it was HFS_FETCH. */
int hfs_inject_abort(struct hfs_cpu *cpu, int fetch);

/* --- State; the vCPU is outside hfs_enter --- */

/* Set the initial state: execution begins at `pc`, the first argument register is `argument`. */
int hfs_reset(struct hfs_cpu *cpu, uint64_t pc, uint64_t argument);

/* Store the address of the next instruction in `*pc`. */
int hfs_program_counter(struct hfs_cpu *cpu, uint64_t *pc);

/* Store the physical address of a virtual one in `*physical`.  -ENOENT: there is none, or (arm64 with
   the MMU on) it is not known. */
int hfs_translate(struct hfs_cpu *cpu, uint64_t address, uint64_t *physical);

/* An exception that KVM has queued for the guest. */
struct hfs_exception {
	uint64_t address; /* of a page fault: CR2 */
	uint32_t vector;
	uint32_t error; /* its error code */
};

/* Store the last one in `*found`; vector 0 if there was none.  -ENOENT: KVM does not tell (arm64). */
int hfs_last_exception(struct hfs_cpu *cpu, struct hfs_exception *found);

/* A register by its architectural name.  Values are little-endian, `size` bytes (at most
   HFS_REGISTER_SLOT) at the beginning of a slot; the rest of the slot is 0. */
#define HFS_REGISTER_SLOT 16
struct hfs_register {
	const char *name;
	uint32_t size;
};

/* Return register `index` of the architecture, from 0; NULL from their number on. */
const struct hfs_register *hfs_register(uint32_t index);

/* Read all registers into `values`, a slot each, and set `known[index]` to 1 for those that this CPU
   has, else to 0.  Completes what KVM holds pending, except an unanswered access; a read that was
   answered and has not completed is executed again. */
int hfs_get_registers(struct hfs_cpu *cpu, uint8_t *values, uint8_t *known);

/* Write the registers whose `wanted[index]` is not 0.  No access may be unanswered.  -ENOENT: this CPU
   has no such register; -EINVAL: KVM refuses a value.  Some may have been written then. */
int hfs_set_registers(struct hfs_cpu *cpu, const uint8_t *values, const uint8_t *wanted);

/* Return the size of a saved state, a constant of the architecture. */
int hfs_saved_size(void);

/* Save all state into `out`, or restore it.  `size` must be hfs_saved_size(), else -EINVAL; likewise
   for data that hfs_save did not write. */
int hfs_save(struct hfs_cpu *cpu, uint8_t *out, int size);
int hfs_restore(struct hfs_cpu *cpu, const uint8_t *in, int size);

/* Zero the counters in a saved state, which advance without the guest: for comparing states. */
void hfs_clear_counters(uint8_t *saved);

/* --- Clock and timer; the vCPU is outside hfs_enter --- */

enum hfs_timer_state {
	HFS_TIMER_OFF,   /* off or masked */
	HFS_TIMER_ARMED,
};

/* Store in `*left` the ns until the virtual timer fires, rounded up, 0 if it is due.  Returns an
   `enum hfs_timer_state` or -errno; `*left` is set for HFS_TIMER_ARMED only. */
int hfs_timer_remaining(struct hfs_cpu *cpu, int64_t *left);

/* Mask the virtual timer (x86-64: stop it). */
int hfs_mask_timer(struct hfs_cpu *cpu);

/* Store the guest's counter in `*count`, in its own units (arm64: ticks, x86-64: ns). */
int hfs_read_clock(struct hfs_cpu *cpu, uint64_t *count);

/* Return by how much the guest's counter advances in `ns` ns. */
uint64_t hfs_ticks(uint64_t ns);

/* Make the guest's counter show `count` until hfs_thaw; then it resumes from there.  `first` is the
   VM's first frozen vCPU, which must be thawed first: on arm64 it sets the counter of all. */
void hfs_freeze(struct hfs_cpu *cpu, uint64_t count);
int hfs_thaw(struct hfs_cpu *cpu, const struct hfs_cpu *first);

#endif
