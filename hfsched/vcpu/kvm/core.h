/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Entering a KVM guest: mechanism alone.  One `hf_cpu` is one vCPU, owned by one thread; only
 * `hf_kick`, `hf_poke` and `hf_set_line` may come from others.  Functions that can fail return
 * -errno.  Source of the interface: Linux, Documentation/virt/kvm/api.rst.
 */
#ifndef HFSCHED_KVM_CORE_H
#define HFSCHED_KVM_CORE_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Why `hf_enter` came back. */
enum {
	HF_HVC, /* args */
	HF_SMC, /* args */
	HF_WFI,
	HF_TIMER,
	HF_KICKED,
	HF_POKED, /* somebody wants the CPU out of the guest for a moment */
	HF_MMIO,  /* address, size, write, value */
	HF_FETCH, /* address: a fetch where no memory is */
	HF_ODD,	  /* address, virtual_address, write: an access that could not be decoded */
	HF_FAILED, /* reason, detail: KVM cannot go on */
};

struct hf_exit {
	uint64_t args[8];
	uint64_t address;
	uint64_t virtual_address;
	uint64_t value;
	uint32_t size;
	uint32_t write;
	uint32_t reason; /* KVM's exit reason */
	uint64_t detail;
};

struct hf_cpu {
	int fd;
	int vm_fd;
	struct kvm_run *run;
	uint64_t run_size;
	atomic_int kicked;
	atomic_int poked;
	atomic_int line;
	atomic_int thread; /* inside hf_enter, else 0 */
	atomic_int closed;
	atomic_int users; /* other threads that use it, and keep it from being closed */
	atomic_int awaited; /* somebody waits for `thread` to become 0 */
	struct hf_exit exit;
	int unanswered; /* the last exit was HF_MMIO, and KVM waits for its end */
	int stands; /* the guest's counter shows `stood` and does not go on */
	uint64_t stood;
	int ran; /* KVM_RUN was called: it may hold something half-done */
	int read_to_go; /* x86-64: a read was answered, and its instruction has not gone on yet */
	/* A reply that is still to be written: how many registers, and these. */
	struct {
		uint64_t count;
		uint64_t values[8];
	} reply;
	/* x86-64: the paravirtual timer, which the kernel knows nothing of. */
	int64_t deadline; /* ns of the guest's clock; negative: stopped */
	int64_t behind;	  /* the guest's clock, behind CLOCK_MONOTONIC */
	timer_t alarm;
	int alarm_thread; /* 0: there is none */
	int64_t alarm_set;
	uint64_t tables; /* the address of the first page tables */
	int index;
};

int hf_prepare(void);
int hf_open(struct hf_cpu *cpu, int vm_fd, int index, uint64_t run_size);
void hf_close(struct hf_cpu *cpu); /* kicks may come until hf_free */
void hf_free(struct hf_cpu *cpu);
int hf_enter(struct hf_cpu *cpu);
void hf_kick(struct hf_cpu *cpu);
void hf_poke(struct hf_cpu *cpu);
void hf_wait_out(struct hf_cpu *cpu);
int hf_set_line(struct hf_cpu *cpu, int level);
int hf_reset(struct hf_cpu *cpu, uint64_t pc, uint64_t argument);
int hf_complete_mmio(struct hf_cpu *cpu, uint64_t value);
int hf_inject_abort(struct hf_cpu *cpu, int fetch);
int hf_call_off(struct hf_cpu *cpu); /* 0: the access is made again; 1: all but its write is done */
int hf_timer_remaining(struct hf_cpu *cpu, int64_t *left);
int hf_mask_timer(struct hf_cpu *cpu);
int hf_set_memory(int vm_fd, uint32_t slot, uint32_t flags, uint64_t ipa, uint64_t size,
		  uint64_t host);
int hf_stats(struct hf_cpu *cpu);
int hf_read_clock(struct hf_cpu *cpu, uint64_t *count);
void hf_freeze(struct hf_cpu *cpu, uint64_t count);
int hf_thaw(struct hf_cpu *cpu, const struct hf_cpu *first); /* the machine's first goes first */
int hf_saved_size(struct hf_cpu *cpu);
int hf_save(struct hf_cpu *cpu, uint8_t *out, int size);
void hf_forget_time(uint8_t *out); /* of what was saved, to compare it */
int hf_restore(struct hf_cpu *cpu, const uint8_t *in, int size);
int hf_program_counter(struct hf_cpu *cpu, uint64_t *pc);
int hf_bare_loop(struct hf_cpu *cpu, int exits);
int hf_prepare_vm(int kvm_fd, int vm_fd);
int hf_features(struct hf_cpu *cpu, int kvm_fd);
int hf_ioctl(int fd, unsigned long request, unsigned long argument);

/* What each architecture adds; see arm64.c and x86_64.c. */
int hf_arch_open(struct hf_cpu *cpu, int index);
void hf_arch_close(struct hf_cpu *cpu);
int hf_arch_before(struct hf_cpu *cpu);	       /* -1: enter; else what to return */
int hf_arch_after(struct hf_cpu *cpu, int error); /* -1: go round; else what to return */

#endif
