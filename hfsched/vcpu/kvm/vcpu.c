/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Making and freeing vCPUs, memory slots, statistics.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int hfs_open(struct hfs_cpu *cpu, int kvm_fd, int vm_fd, int index, uint64_t run_size)
{
	void *page;
	int error;

	memset(cpu, 0, sizeof(*cpu));
	cpu->vm_fd = vm_fd;
	cpu->index = index;
	cpu->deadline = -1;
	cpu->run_size = run_size;
	cpu->fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (cpu->fd < 0)
		return -errno;
	page = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	if (page == MAP_FAILED) {
		error = -errno;
		close(cpu->fd);
		cpu->fd = -1;
		return error;
	}
	madvise(page, run_size, MADV_DONTFORK);
	cpu->run = page;
	error = hfs_arch_open(cpu, kvm_fd);
	if (error)
		hfs_close(cpu);
	return error;
}

void hfs_close(struct hfs_cpu *cpu)
{
	if (!cpu->run || cpu->fd < 0)
		return;
	atomic_store(&cpu->closed, 1);
	while (atomic_load(&cpu->users))
		sched_yield(); /* those calls do not block */
	hfs_arch_close(cpu);
	/* An hfs_enter that begins too late writes there: replace it by an empty page. */
	mmap(cpu->run, cpu->run_size, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	close(cpu->fd);
	cpu->fd = -1;
}

void hfs_free(struct hfs_cpu *cpu)
{
	hfs_close(cpu);
	if (cpu->run)
		munmap(cpu->run, cpu->run_size);
	cpu->run = NULL;
}

int hfs_set_memory(int vm_fd, uint32_t slot, uint32_t flags, uint64_t ipa, uint64_t size,
		  uint64_t host)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = ipa,
		.memory_size = size,
		.userspace_addr = host,
	};

	return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

void hfs_freeze(struct hfs_cpu *cpu, uint64_t count)
{
	cpu->frozen = 1;
	cpu->frozen_count = count;
}

int hfs_ioctl(int fd, unsigned long request, unsigned long argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

int hfs_stats(struct hfs_cpu *cpu)
{
	return hfs_ioctl(cpu->fd, KVM_GET_STATS_FD, 0);
}

int hfs_bare_loop(struct hfs_cpu *cpu, int exits)
{
	int result = 0;

	for (; exits > 0; exits--) {
		result = ioctl(cpu->fd, KVM_RUN, 0) ? -errno : 0;
		if (result)
			break;
	}
	return result;
}
