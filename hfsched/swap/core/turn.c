/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Turns of the serving thread: a futex that other threads wait on, an eventfd that wakes it.
 */
#define _GNU_SOURCE
#include "turn.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void hfs_begin_turn(struct hfs *swap)
{
	atomic_fetch_add(&swap->turn, 1);
}

void hfs_end_turn(struct hfs *swap)
{
	atomic_fetch_add(&swap->turn, 1);
	if (atomic_load(&swap->turn_waiters))
		syscall(SYS_futex, &swap->turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void hfs_kick(struct hfs *swap)
{
	uint64_t one = 1;

	if (write(swap->kick, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is kicked already */
}

int hfs_alarm_open(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void hfs_alarm(struct hfs *swap, uint64_t page)
{
	uint64_t one = 1;

	atomic_store(&swap->table.header->damaged, page + 1);
	if (write(swap->alarm, &one, sizeof(one)) < 0)
		return; /* the counter is full: main is told already */
}

static void await_turn(struct hfs *swap, uint32_t awaited, const struct timespec *timeout)
{
	uint32_t turn;

	atomic_fetch_add(&swap->turn_waiters, 1);
	while ((int32_t)((turn = atomic_load(&swap->turn)) - awaited) < 0)
		if (syscall(SYS_futex, &swap->turn, FUTEX_WAIT_PRIVATE, turn, timeout, NULL, 0) &&
		    errno == ETIMEDOUT)
			break;
	atomic_fetch_sub(&swap->turn_waiters, 1);
}

static void await_end_of_turn(struct hfs *swap, const struct timespec *timeout)
{
	uint32_t turn = atomic_load(&swap->turn);

	if (turn & 1)
		await_turn(swap, turn + 1, timeout);
}

void hfs_quiesce(struct hfs *swap)
{
	await_end_of_turn(swap, NULL);
}

/* It reads the members between two turns, so one more turn must begin and end. */
void hfs_refresh_poll_set(struct hfs *swap)
{
	uint32_t turn = atomic_load(&swap->turn);

	hfs_kick(swap);
	if (swap->running)
		await_turn(swap, (turn + 2) & ~1u, NULL);
}

/* With a limit: the worker must not starve when faults never end. */
void hfs_yield_to_faults(struct hfs *swap)
{
	struct timespec moment = { .tv_nsec = 2000000 };

	await_end_of_turn(swap, &moment);
}

void hfs_notify_published(struct hfs *swap)
{
	if (atomic_exchange(&swap->waiting, 0))
		hfs_kick(swap);
}
