/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What bench/dirty_speed.py measures with: loops over memory, and on x86-64 a VM of KVM whose guest writes a
 * word into pages, with KVM's own log of dirty pages or without.  A library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ull

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* Write a word into the middle of each `stride`th page of [base, base + size); ns. */
uint64_t write_pages(uint64_t base, uint64_t size, uint64_t stride)
{
	uint64_t began = now(), at;

	for (at = 0; at < size; at += stride * PAGE)
		++*(volatile uint64_t *)(uintptr_t)(base + at + PAGE / 2);
	return now() - began;
}

/* Find the pages that differ from a copy, and bring the copy up to date; how many. */
uint64_t compare_pages(uint64_t base, uint64_t copy, uint64_t size)
{
	uint64_t at, found = 0;

	for (at = 0; at < size; at += PAGE)
		if (memcmp((void *)(uintptr_t)(base + at), (void *)(uintptr_t)(copy + at), PAGE)) {
			memcpy((void *)(uintptr_t)(copy + at), (void *)(uintptr_t)(base + at), PAGE);
			found++;
		}
	return found;
}

#ifdef __x86_64__

struct machine {
	int vm, vcpu;
	struct kvm_run *run;
	uint64_t base, size, *log;
};

/* mov [edi], eax; add edi, ebx; dec ecx; jnz back; hlt */
static const uint8_t program[] = { 0x89, 0x07, 0x01, 0xdf, 0x49, 0x75, 0xf9, 0xf4 };

static int set_memory(struct machine *machine, int log)
{
	struct kvm_userspace_memory_region region = {
		.flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.memory_size = machine->size,
		.userspace_addr = machine->base,
	};

	return ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Protected mode without paging, flat. */
static int set_mode(struct machine *machine)
{
	struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1,
				    .s = 1, .g = 1 };
	struct kvm_segment data = code;
	struct kvm_sregs sregs;

	if (ioctl(machine->vcpu, KVM_GET_SREGS, &sregs))
		return -1;
	data.selector = 16;
	data.type = 3;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.ss = data;
	sregs.cr0 |= 1;
	return ioctl(machine->vcpu, KVM_SET_SREGS, &sregs);
}

/* A VM whose memory is [base, base + size), with the guest's program in its first page; NULL: errno. */
struct machine *kvm_new(uint64_t base, uint64_t size)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	uint64_t identity = 0xfffbc000;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), run_size;

	if (kvm < 0 || !machine)
		return NULL;
	machine->base = base;
	machine->size = size;
	machine->log = calloc(size / PAGE / 64 + 1, 8);
	machine->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	close(kvm);
	if (machine->vm < 0 || ioctl(machine->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
	    ioctl(machine->vm, KVM_SET_TSS_ADDR, 0xfffbd000) || set_memory(machine, 0))
		return NULL;
	machine->vcpu = ioctl(machine->vm, KVM_CREATE_VCPU, 0);
	if (machine->vcpu < 0)
		return NULL;
	machine->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, machine->vcpu, 0);
	if (machine->run == MAP_FAILED || set_mode(machine))
		return NULL;
	memcpy((void *)(uintptr_t)base, program, sizeof(program));
	return machine;
}

void kvm_close(struct machine *machine)
{
	close(machine->vcpu);
	close(machine->vm);
	free(machine->log);
	free(machine);
}

/* Have the guest write a word into each `stride`th page from the second on; ns, 0: it did not end as it should. */
uint64_t kvm_write(struct machine *machine, uint64_t stride)
{
	struct kvm_regs regs = {
		.rflags = 2,
		.rdi = PAGE,
		.rbx = stride * PAGE,
		.rcx = (machine->size / PAGE - 1 + stride - 1) / stride,
	};
	uint64_t began;

	if (ioctl(machine->vcpu, KVM_SET_REGS, &regs))
		return 0;
	began = now();
	do
		if (ioctl(machine->vcpu, KVM_RUN, 0) && errno != EINTR)
			return 0;
	while (machine->run->exit_reason == KVM_EXIT_INTR);
	return machine->run->exit_reason == KVM_EXIT_HLT ? now() - began : 0;
}

/* Switch the log on or off; 0 or -1. */
int kvm_log(struct machine *machine, int on)
{
	return set_memory(machine, on);
}

/* Ask for the dirty pages, which begins anew; how many. */
int64_t kvm_dirty(struct machine *machine)
{
	struct kvm_dirty_log log = { .dirty_bitmap = machine->log };
	int64_t found = 0;
	uint64_t word;

	if (ioctl(machine->vm, KVM_GET_DIRTY_LOG, &log))
		return -1;
	for (word = 0; word < machine->size / PAGE / 64; word++)
		found += __builtin_popcountll(machine->log[word]);
	return found;
}

#endif
