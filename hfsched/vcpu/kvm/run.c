/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Running a vCPU, and interrupting the run from other threads.
 *
 * No kick is lost.  The kicker writes the flag, then immediate_exit, then signals the thread if it is
 * inside; the runner clears immediate_exit and reads the flags after that.  A signal that arrives
 * before the ioctl has immediate_exit set before it, and the ioctl reads that.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int kick_signal;
static __thread struct hfs_cpu *volatile current; /* the vCPU that this thread is inside */
static __thread int thread_id; /* of this thread; 0: not yet known */
static __thread bool kick_unblocked;

/* KVM_RUN reads it at its beginning: 1 makes it return at once. */
static void set_immediate_exit(struct hfs_cpu *cpu, uint8_t value)
{
	__atomic_store_n(&cpu->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	/* An alarm may arrive just before the ioctl, which then returns at once. */
	if (info->si_code == SI_TIMER && current)
		set_immediate_exit(current, 1);
}

int hfs_kick_signal(void)
{
	return kick_signal;
}

/* The forking thread has another id in the child. */
static void after_fork(void)
{
	thread_id = 0;
}

int hfs_prepare(void)
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
		if (pthread_atfork(NULL, NULL, after_fork))
			return -ENOMEM;
		kick_signal = number;
		return 0;
	}
	return -EBUSY;
}

int hfs_thread_id(void)
{
	if (!thread_id)
		thread_id = (int)syscall(SYS_gettid);
	return thread_id;
}

void hfs_interrupt_run(struct hfs_cpu *cpu)
{
	int thread;

	atomic_fetch_add(&cpu->users, 1);
	if (!atomic_load(&cpu->closed)) {
		set_immediate_exit(cpu, 1);
		thread = atomic_load(&cpu->thread);
		if (thread && thread != hfs_thread_id())
			syscall(SYS_tgkill, getpid(), thread, kick_signal);
	}
	atomic_fetch_sub(&cpu->users, 1);
}

void hfs_kick(struct hfs_cpu *cpu)
{
	atomic_store(&cpu->kicked, 1);
	hfs_interrupt_run(cpu);
}

void hfs_force_exit(struct hfs_cpu *cpu)
{
	atomic_store(&cpu->forced, 1);
	hfs_interrupt_run(cpu);
}

void hfs_wait_outside(struct hfs_cpu *cpu)
{
	int thread;

	atomic_store(&cpu->outside_awaited, 1);
	while ((thread = atomic_load(&cpu->thread)) && thread != hfs_thread_id())
		syscall(SYS_futex, &cpu->thread, FUTEX_WAIT_PRIVATE, thread, NULL, NULL, 0);
	atomic_store(&cpu->outside_awaited, 0);
}

/* Processes and threads inherit the signal mask, in which the signal may be blocked. */
static bool unblock_kick(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, kick_signal);
	return !pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

int hfs_enter(struct hfs_cpu *cpu)
{
	int result;

	if (!kick_unblocked)
		kick_unblocked = unblock_kick();
	atomic_store(&cpu->thread, hfs_thread_id());
	current = cpu;
	for (;;) {
		set_immediate_exit(cpu, 0);
		if (atomic_load(&cpu->forced)) {
			atomic_store(&cpu->forced, 0);
			result = HFS_FORCED;
			break;
		}
		if (atomic_load(&cpu->kicked)) {
			atomic_store(&cpu->kicked, 0);
			result = HFS_KICKED;
			break;
		}
		result = hfs_arch_before_run(cpu);
		if (result != HFS_NO_EXIT)
			break;
		cpu->ran = 1;
		result = ioctl(cpu->fd, KVM_RUN, 0) ? errno : 0;
		result = hfs_arch_after_run(cpu, result);
		if (result != HFS_NO_EXIT)
			break;
	}
	current = NULL;
	atomic_store(&cpu->thread, 0);
	if (atomic_load(&cpu->outside_awaited))
		syscall(SYS_futex, &cpu->thread, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
	return result;
}

int hfs_mmio_exit(struct hfs_cpu *cpu)
{
	const struct kvm_run *run = cpu->run;

	cpu->access_unanswered = 1;
	cpu->exit.address = run->mmio.phys_addr;
	cpu->exit.virtual_address = 0;
	cpu->exit.size = run->mmio.len;
	cpu->exit.write = run->mmio.is_write;
	cpu->exit.value = 0;
	if (run->mmio.is_write && run->mmio.len <= sizeof(cpu->exit.value))
		memcpy(&cpu->exit.value, run->mmio.data, run->mmio.len);
	return HFS_MMIO;
}

/* KVM makes one access of up to 1024 bytes of REP INS, in parts of 8; twice as many, to be sure. */
#define PARTS_MAX 256

int hfs_complete_pending(struct hfs_cpu *cpu)
{
	int parts = 0;

	for (;;) {
		set_immediate_exit(cpu, 1);
		if (!ioctl(cpu->fd, KVM_RUN, 0)) {
			if (parts++ < PARTS_MAX)
				continue; /* the next part of an access that is wider than 8 bytes */
			return -EIO;
		}
		if (errno != EINTR)
			return -errno;
		/* The next hfs_enter reads the flags of a kick that comes meanwhile. */
		return 0;
	}
}
