/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What both architectures have: running, kicking, memory.
 *
 * No kick is lost: who kicks writes the flag, then immediate_exit, then signals the thread if it is
 * inside; who runs clears immediate_exit and looks at the flags after that.  A signal that comes
 * before the ioctl is behind the immediate_exit that the ioctl looks at.
 */
#define _GNU_SOURCE
#include "core.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int kick_signal;
static __thread struct hf_cpu *volatile inside; /* what this thread is about to run */
static __thread int self; /* its number, 0 before somebody asks */
static __thread bool hears; /* the signal is not blocked */

/* KVM_RUN looks at it as it begins: 1 makes it end at once. */
static void set_immediate_exit(struct hf_cpu *cpu, uint8_t value)
{
	__atomic_store_n(&cpu->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	/* An alarm: the flag is looked at by the ioctl that may be about to begin. */
	if (info->si_code == SI_TIMER && inside)
		set_immediate_exit(inside, 1);
}

int hf_signal(void)
{
	return kick_signal;
}

/* The thread that lives on in a child has another number there. */
static void in_child(void)
{
	self = 0;
}

/* Take a real-time signal that nobody uses, once for the process. */
int hf_prepare(void)
{
	struct sigaction action, before;
	int number;

	if (kick_signal)
		return 0;
	for (number = SIGRTMAX; number >= SIGRTMIN; number--) {
		if (sigaction(number, NULL, &before))
			return -errno;
		if (before.sa_handler != SIG_DFL || before.sa_flags & SA_SIGINFO)
			continue;
		memset(&action, 0, sizeof(action));
		action.sa_sigaction = on_signal;
		action.sa_flags = SA_SIGINFO | SA_RESTART;
		if (sigaction(number, &action, NULL))
			return -errno;
		if (pthread_atfork(NULL, NULL, in_child))
			return -ENOMEM;
		kick_signal = number;
		return 0;
	}
	return -EBUSY;
}

int hf_open(struct hf_cpu *cpu, int vm_fd, int index, uint64_t run_size)
{
	void *page;
	int error;

	memset(cpu, 0, sizeof(*cpu));
	cpu->vm_fd = vm_fd;
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
	error = hf_arch_open(cpu, index);
	if (error)
		hf_close(cpu);
	return error;
}

void hf_close(struct hf_cpu *cpu)
{
	if (!cpu->run || cpu->fd < 0)
		return;
	atomic_store(&cpu->closed, 1);
	while (atomic_load(&cpu->users))
		sched_yield(); /* it is in a call that does not wait */
	hf_arch_close(cpu);
	/* An hf_enter that comes too late writes there: an empty page takes its place. */
	mmap(cpu->run, cpu->run_size, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	close(cpu->fd);
	cpu->fd = -1;
}

void hf_free(struct hf_cpu *cpu)
{
	hf_close(cpu);
	if (cpu->run)
		munmap(cpu->run, cpu->run_size);
	cpu->run = NULL;
}

int hf_self(void)
{
	if (!self)
		self = (int)syscall(SYS_gettid);
	return self;
}

static void prod(struct hf_cpu *cpu)
{
	int thread;

	atomic_fetch_add(&cpu->users, 1);
	if (!atomic_load(&cpu->closed)) {
		set_immediate_exit(cpu, 1);
		thread = atomic_load(&cpu->thread);
		if (thread && thread != hf_self())
			syscall(SYS_tgkill, getpid(), thread, kick_signal);
	}
	atomic_fetch_sub(&cpu->users, 1);
}

void hf_kick(struct hf_cpu *cpu)
{
	atomic_store(&cpu->kicked, 1);
	prod(cpu);
}

void hf_poke(struct hf_cpu *cpu)
{
	atomic_store(&cpu->poked, 1);
	prod(cpu);
}

/* Wait until nobody is inside hf_enter; a poke comes before. */
void hf_wait_out(struct hf_cpu *cpu)
{
	int thread;

	atomic_store(&cpu->awaited, 1);
	while ((thread = atomic_load(&cpu->thread)) && thread != hf_self())
		syscall(SYS_futex, &cpu->thread, FUTEX_WAIT_PRIVATE, thread, NULL, NULL, 0);
	atomic_store(&cpu->awaited, 0);
}

/* A process begins with the signals blocked that its parent had blocked, and a thread likewise. */
static bool hear(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, kick_signal);
	return !pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

int hf_enter(struct hf_cpu *cpu)
{
	int result;

	if (!hears)
		hears = hear();
	atomic_store(&cpu->thread, hf_self());
	inside = cpu;
	for (;;) {
		set_immediate_exit(cpu, 0);
		if (atomic_load(&cpu->poked)) {
			atomic_store(&cpu->poked, 0);
			result = HF_POKED;
			break;
		}
		if (atomic_load(&cpu->kicked)) {
			atomic_store(&cpu->kicked, 0);
			result = HF_KICKED;
			break;
		}
		result = hf_arch_before(cpu);
		if (result >= 0 || result < -1)
			break;
		cpu->ran = 1;
		result = ioctl(cpu->fd, KVM_RUN, 0) ? errno : 0;
		result = hf_arch_after(cpu, result);
		if (result != -1)
			break;
	}
	inside = NULL;
	atomic_store(&cpu->thread, 0);
	if (atomic_load(&cpu->awaited))
		syscall(SYS_futex, &cpu->thread, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
	return result;
}

/* Finish what KVM holds half-done (an MMIO read, an I/O) without running the guest. */
int hf_settle(struct hf_cpu *cpu)
{
	int parts = 0;

	for (;;) {
		set_immediate_exit(cpu, 1);
		if (!ioctl(cpu->fd, KVM_RUN, 0)) {
			if (parts++ < 16)
				continue; /* the next part of an access that is wider than 8 bytes */
			return -EIO;
		}
		if (errno != EINTR)
			return -errno;
		/* Whoever kicks now is seen by the next hf_enter, which looks at the flags. */
		return 0;
	}
}

int hf_set_memory(int vm_fd, uint32_t slot, uint32_t flags, uint64_t ipa, uint64_t size,
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

/* The guest's counter stands at `count`, until hf_thaw. */
void hf_freeze(struct hf_cpu *cpu, uint64_t count)
{
	cpu->stands = 1;
	cpu->stood = count;
}

int hf_ioctl(int fd, unsigned long request, unsigned long argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

/* The file of the vCPU's statistics, or -1. */
int hf_stats(struct hf_cpu *cpu)
{
	return ioctl(cpu->fd, KVM_GET_STATS_FD, 0);
}

/* The baseline of benchmarks: so many exits, answered with nothing. */
int hf_bare_loop(struct hf_cpu *cpu, int exits)
{
	int result = 0;

	for (; exits > 0; exits--) {
		result = ioctl(cpu->fd, KVM_RUN, 0) ? -errno : 0;
		if (result)
			break;
	}
	return result;
}

#if defined(__aarch64__)
#include "arm64.c"
#elif defined(__x86_64__)
#include "x86_64.c"
#include "x86_64_state.c"
#else
#error "KVM engines: arm64 and x86-64"
#endif
