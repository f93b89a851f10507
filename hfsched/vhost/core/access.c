#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "core.h"

/* Of this thread: where an access goes on that has failed.  Armed around single accesses, which call nothing. */
static __thread sigjmp_buf where;
static __thread volatile sig_atomic_t armed;
static struct sigaction before;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int failure;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	if (armed) {
		armed = 0;
		siglongjmp(where, 1);
	}
	/* It is not ours: whoever was there before gets it, or it ends the process when the access is repeated. */
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(number, info, context);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(number);
	else
		signal(number, SIG_DFL);
}

static void install(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_bus_error;
	action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, &before))
		failure = -errno;
}

int hfv_open(void)
{
	pthread_once(&once, install);
	return failure;
}

/* SA_NODEFER: the mask needs no saving. */
#define GUARDED(access)                       \
	do {                                  \
		if (sigsetjmp(where, 0))      \
			return -EFAULT;       \
		armed = 1;                    \
		atomic_signal_fence(memory_order_seq_cst); \
		access;                       \
		atomic_signal_fence(memory_order_seq_cst); \
		armed = 0;                    \
	} while (0)

int hfv_read(uint8_t *to, uint64_t from, uint64_t size)
{
	GUARDED(memcpy(to, (const void *)from, size));
	return 0;
}

int hfv_write(uint64_t to, const uint8_t *from, uint64_t size)
{
	GUARDED(memcpy((void *)to, from, size));
	return 0;
}

int hfv_fill(uint64_t to, int byte, uint64_t size)
{
	GUARDED(memset((void *)to, byte, size));
	return 0;
}

int hfv_load16(uint64_t from)
{
	volatile uint16_t value;

	GUARDED(value = atomic_load_explicit((_Atomic uint16_t *)from, memory_order_acquire));
	return value;
}

int hfv_store16(uint64_t to, uint16_t value)
{
	GUARDED(atomic_store_explicit((_Atomic uint16_t *)to, value, memory_order_release));
	return 0;
}

int hfv_or8(uint64_t to, uint8_t bits)
{
	GUARDED(atomic_fetch_or((_Atomic uint8_t *)to, bits));
	return 0;
}

void hfv_fence(void)
{
	atomic_thread_fence(memory_order_seq_cst);
}
