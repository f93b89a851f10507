/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What bench/scale.py measures the engine kvm against on x86-64: as many VMs and threads as it is told
 * of, each with the image loaded and run to its first MSG_WAIT, and nothing else.
 *
 *     scale_kvm IMAGE VMS MEMORY
 *
 * prints the ns that it took and the ns of processor time, and waits for the end of its input.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BASE 0x7f000000ull
#define TABLES 0xffe00000ull
#define TABLE_PAGES 6
#define PORT_HVC 0x48

#define FFA_SUCCESS 0x84000061u
#define FFA_VERSION 0x84000063u
#define FFA_ID_GET 0x84000069u
#define FFA_MSG_WAIT 0x8400006bu
#define HF_DEBUG_LOG 0xbd000000u

struct vm {
	int vcpu;
	struct kvm_run *run;
	pthread_t thread;
};

static int kvm, run_size, waiting;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER, end = PTHREAD_COND_INITIALIZER;
static struct kvm_cpuid2 *features;
static uint64_t *tables;

static void need(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static uint64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* The first 4 GiB, identity, in pages of 2 MiB: a root, a table, four of these. */
static uint64_t *identity(void)
{
	uint64_t *made = mmap(NULL, TABLE_PAGES * 4096, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int index;

	need(made != MAP_FAILED, "mmap");
	made[0] = (TABLES + 4096) | 0x23;
	for (index = 0; index < 4; index++)
		made[512 + index] = (TABLES + 4096 * (2 + index)) | 0x23;
	for (index = 0; index < 2048; index++)
		made[1024 + index] = ((uint64_t)index << 21) | 0xe3;
	return made;
}

static void *runner(void *argument)
{
	struct vm *vm = argument;
	struct kvm_regs *regs = &vm->run->s.regs.regs;

	for (;;) {
		need(!ioctl(vm->vcpu, KVM_RUN, 0), "KVM_RUN");
		if (vm->run->exit_reason != KVM_EXIT_IO || vm->run->io.port != PORT_HVC)
			continue;
		if ((uint32_t)regs->rax == FFA_MSG_WAIT)
			break;
		switch ((uint32_t)regs->rax) {
		case FFA_VERSION: regs->rax = 0x10000; break;
		case FFA_ID_GET: regs->rax = FFA_SUCCESS; regs->rsi = 2; break;
		case HF_DEBUG_LOG: regs->rax = 0; break;
		default: regs->rax = FFA_SUCCESS;
		}
		vm->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	}
	pthread_mutex_lock(&mutex);
	waiting++;
	pthread_cond_signal(&changed);
	pthread_cond_wait(&end, &mutex);
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static void flat(struct kvm_segment *segment, int code)
{
	memset(segment, 0, sizeof(*segment));
	segment->limit = 0xffffffff;
	segment->selector = code ? 0x08 : 0x10;
	segment->type = code ? 11 : 3;
	segment->present = segment->s = segment->g = 1;
	segment->l = code;
	segment->db = !code;
}

static void slot(int fd, int number, int flags, uint64_t ipa, uint64_t size, void *host)
{
	struct kvm_userspace_memory_region region = {
		number, flags, ipa, size, (uintptr_t)host,
	};

	need(!ioctl(fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static void make(struct vm *vm, const void *image, size_t size, uint64_t memory)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = BASE, .rdi = memory, .rflags = 2};
	int ram = memfd_create("scale", MFD_CLOEXEC), fd = ioctl(kvm, KVM_CREATE_VM, 0);
	void *host;

	need(ram >= 0 && !ftruncate(ram, memory), "memfd");
	host = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
	need(host != MAP_FAILED, "mmap");
	memcpy(host, image, size);
	need(fd >= 0, "KVM_CREATE_VM");
	ioctl(fd, KVM_SET_TSS_ADDR, 0xfffbd000UL);
	slot(fd, 0, 0, BASE, memory, host);
	slot(fd, 1, KVM_MEM_READONLY, TABLES, TABLE_PAGES * 4096, tables);
	vm->vcpu = ioctl(fd, KVM_CREATE_VCPU, 0);
	need(vm->vcpu >= 0, "KVM_CREATE_VCPU");
	vm->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	need(vm->run != MAP_FAILED, "mmap");
	need(!ioctl(vm->vcpu, KVM_SET_CPUID2, features), "KVM_SET_CPUID2");
	need(!ioctl(vm->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	flat(&sregs.cs, 1);
	flat(&sregs.ds, 0);
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	memset(&sregs.gdt, 0, sizeof(sregs.gdt));
	memset(&sregs.idt, 0, sizeof(sregs.idt));
	sregs.cr0 = 0x80010031;
	sregs.cr3 = TABLES;
	sregs.cr4 = 0x20;
	sregs.efer = 0xd00;
	need(!ioctl(vm->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	need(!ioctl(vm->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	vm->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
}

int main(int count, char **words)
{
	static char image[1 << 20];
	uint64_t began, burnt, memory;
	struct vm *vms;
	ssize_t size;
	int index, number, file;

	if (count != 4)
		return 2;
	number = atoi(words[2]);
	memory = strtoull(words[3], NULL, 10);
	began = now(CLOCK_MONOTONIC);
	burnt = now(CLOCK_PROCESS_CPUTIME_ID);
	file = open(words[1], O_RDONLY);
	size = read(file, image, sizeof(image));
	need(size > 0, words[1]);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	need(kvm >= 0, "/dev/kvm");
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	features = calloc(1, sizeof(*features) + 256 * sizeof(features->entries[0]));
	features->nent = 256;
	need(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, features), "KVM_GET_SUPPORTED_CPUID");
	tables = identity();
	vms = calloc(number, sizeof(*vms));
	for (index = 0; index < number; index++)
		make(&vms[index], image, size, memory);
	for (index = 0; index < number; index++)
		need(!pthread_create(&vms[index].thread, NULL, runner, &vms[index]), "thread");
	pthread_mutex_lock(&mutex);
	while (waiting < number)
		pthread_cond_wait(&changed, &mutex);
	pthread_mutex_unlock(&mutex);
	printf("%llu %llu\n", (unsigned long long)(now(CLOCK_MONOTONIC) - began),
	       (unsigned long long)(now(CLOCK_PROCESS_CPUTIME_ID) - burnt));
	fflush(stdout);
	while (read(0, image, sizeof(image)) > 0)
		;
	return 0;
}
