/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The thread that serves page faults.  It takes no lock and never waits for the worker: a fault on
 * a page that is being published stays in its queue.
 */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64 /* events in one read */

/* Serve what is in the queue; the time until it must be looked at again, in ms, or -1. */
static int deal(struct hfs *swap)
{
	struct hfs_member *member;
	struct hfs_fault *fault;
	struct hfs_around around;
	enum hfs_outcome outcome;
	int each, kept = 0, timeout = -1;

	for (each = 0; each < swap->queued; each++) {
		fault = &swap->queue[each];
		member = &swap->members[fault->member];
		if (atomic_load(&member->state) != HFS_ALIVE)
			continue;
		hfs_window(swap, fault->page, &around);
		outcome = hfs_serve_page(swap, member, fault->page, &around);
		if (outcome == HFS_SERVED) {
			if (swap->around > 1 && swap->queued == 1)
				hfs_serve_around(swap, member, fault->page, &around);
			continue;
		}
		if (outcome == HFS_WAITS && !fault->waited) {
			fault->waited = true;
			hfs_event(swap, HFS_WAITED, 1);
		}
		if (outcome == HFS_LATER)
			timeout = 20;
		swap->queue[kept++] = *fault;
	}
	swap->queued = kept;
	return timeout;
}

static void enqueue(struct hfs *swap, int number, uint64_t address)
{
	struct hfs_member *member = &swap->members[number];
	struct hfs_fault *queue;
	uint64_t offset;
	int each, size;

	for (each = 0; each < swap->region_count; each++) {
		offset = (address - member->base[each]) / HFS_PAGE;
		if (!member->base[each] || address < member->base[each] ||
		    offset >= swap->regions[each].pages)
			continue;
		if (swap->queued == swap->queue_size) {
			size = swap->queue_size ? swap->queue_size * 2 : BATCH;
			queue = realloc(swap->queue, size * sizeof(*queue));
			if (!queue) { /* it faults again */
				hfs_uffd_wake(member->uffd, address & ~(HFS_PAGE - 1ull), HFS_PAGE);
				return;
			}
			swap->queue = queue;
			swap->queue_size = size;
		}
		swap->queue[swap->queued++] = (struct hfs_fault){
			.member = number, .page = swap->regions[each].first + offset
		};
		return;
	}
}

/* Read all events of a member. */
static void read_events(struct hfs *swap, int number)
{
	struct uffd_msg messages[BATCH];
	ssize_t size;
	int each, count;

	do {
		size = read(swap->members[number].uffd, messages, sizeof(messages));
		count = size > 0 ? (int)(size / (ssize_t)sizeof(*messages)) : 0;
		for (each = 0; each < count; each++) {
			if (messages[each].event != UFFD_EVENT_PAGEFAULT)
				continue;
			hfs_event(swap, HFS_FAULTS, 1);
			enqueue(swap, number, messages[each].arg.pagefault.address);
		}
	} while (count == BATCH);
}

static int fill(struct hfs *swap, struct pollfd *fds, int *who)
{
	int number, count = 1;

	fds[0] = (struct pollfd){ .fd = swap->kick, .events = POLLIN };
	for (number = 0; number < HFS_MEMBERS; number++) {
		if (atomic_load(&swap->members[number].state) != HFS_ALIVE)
			continue;
		fds[count] = (struct pollfd){ .fd = swap->members[number].uffd, .events = POLLIN };
		who[count++] = number;
	}
	return count;
}

static void begin_turn(struct hfs *swap)
{
	atomic_fetch_add(&swap->turn, 1);
}

static void end_turn(struct hfs *swap)
{
	atomic_fetch_add(&swap->turn, 1);
	if (atomic_load(&swap->turn_awaited))
		syscall(SYS_futex, &swap->turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void *serve(void *argument)
{
	struct pollfd fds[HFS_MEMBERS + 1];
	int who[HFS_MEMBERS + 1], count, each, timeout = -1;
	struct hfs *swap = argument;
	uint64_t kicks;

	while (!atomic_load(&swap->stop)) {
		count = fill(swap, fds, who);
		if (poll(fds, count, timeout) < 0)
			continue;
		begin_turn(swap);
		if (fds[0].revents && read(swap->kick, &kicks, sizeof(kicks)) < 0)
			kicks = 0;
		for (each = 1; each < count; each++) {
			if (atomic_load(&swap->members[who[each]].state) != HFS_ALIVE)
				continue;
			if (fds[each].revents & (POLLERR | POLLNVAL))
				hfs_lost(swap, &swap->members[who[each]]);
			else if (fds[each].revents)
				read_events(swap, who[each]);
		}
		timeout = deal(swap);
		end_turn(swap);
	}
	return NULL;
}

int hfs_start(struct hfs *swap)
{
	sigset_t all, before;
	int error;

	if (swap->running)
		return -EBUSY;
	atomic_store(&swap->stop, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&swap->thread, NULL, serve, swap);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return -error;
	swap->running = true;
	hfs_wake_all(swap); /* who waits since before: their events were read by somebody else */
	return 0;
}

void hfs_stop(struct hfs *swap)
{
	if (!swap->running)
		return;
	atomic_store(&swap->stop, 1);
	hfs_kick(swap);
	pthread_join(swap->thread, NULL);
	swap->running = false;
	swap->queued = 0;
}

void hfs_kick(struct hfs *swap)
{
	uint64_t one = 1;

	if (write(swap->kick, &one, sizeof(one)) < 0)
		return; /* full: it is kicked already */
}

static void await_turn(struct hfs *swap, uint32_t awaited, const struct timespec *timeout)
{
	uint32_t turn;

	atomic_fetch_add(&swap->turn_awaited, 1);
	while ((int32_t)((turn = atomic_load(&swap->turn)) - awaited) < 0)
		if (syscall(SYS_futex, &swap->turn, FUTEX_WAIT_PRIVATE, turn, timeout, NULL, 0) &&
		    errno == ETIMEDOUT)
			break;
	atomic_fetch_sub(&swap->turn_awaited, 1);
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

/* What it polls it looks up between two turns: if it is in none now, one more must begin and end. */
void hfs_poll_anew(struct hfs *swap)
{
	uint32_t turn = atomic_load(&swap->turn);

	hfs_kick(swap);
	if (swap->running)
		await_turn(swap, (turn + 2) & ~1u, NULL);
}

/* For a moment: with faults without end the worker goes on all the same. */
void hfs_let_faults_go_first(struct hfs *swap)
{
	struct timespec moment = { .tv_nsec = 2000000 };

	await_end_of_turn(swap, &moment);
}

void hfs_published(struct hfs *swap)
{
	if (atomic_exchange(&swap->waiting, 0))
		hfs_kick(swap);
}
