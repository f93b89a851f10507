/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The thread that serves page faults.  It takes no lock and never waits for the worker: a fault on
 * a page that is being published stays in the queue.
 */
#define _GNU_SOURCE
#include "fault.h"
#include "members.h"
#include "owed.h"
#include "turn.h"
#include "uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64   /* events in one read */
#define FOREVER -1 /* of poll(2) */
#define RETRY 20   /* ms, after a fault that could not be served */

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void log_fault(struct hfs *swap, const struct hfs_fault *fault, int action)
{
	static const uint64_t sources[] = {
		[HFS_CONTINUE] = HFS_SOURCE_STAGING,	[HFS_ZERO_PAGE] = HFS_SOURCE_ZERO,
		[HFS_READ_FILE] = HFS_SOURCE_FILE,	[HFS_DECOMPRESS] = HFS_SOURCE_TIER,
		[HFS_COPY_STAGED] = HFS_SOURCE_STAGING, [HFS_WAIT] = HFS_SOURCE_MAPPED,
		[HFS_READ_STORED] = HFS_SOURCE_SNAPSHOT,
	};

	hfs_table_log(&swap->table, (struct hfs_logged){ .when = fault->when,
							 .page = fault->page | sources[action] << 48,
							 .took = now() - fault->when });
}

/* Serve the queue; return the time until it must be served again: ms, or FOREVER. */
static int serve_queue(struct hfs *swap)
{
	struct hfs_member *member;
	struct hfs_fault *fault;
	struct hfs_around around;
	enum hfs_outcome outcome;
	int each, kept = 0, timeout = FOREVER;

	for (each = 0; each < swap->queued; each++) {
		fault = &swap->queue[each];
		member = &swap->members[fault->member];
		if (atomic_load(&member->state) != HFS_ALIVE)
			continue;
		hfs_window(swap, fault->page, &around);
		outcome = hfs_serve_page(swap, member, fault->page, &around);
		if (outcome == HFS_SERVED) {
			log_fault(swap, fault, around.action);
			if (swap->around > 1 && swap->queued == 1 && !hfs_owing(swap))
				hfs_serve_around(swap, member, fault->page, &around);
			continue;
		}
		if (outcome == HFS_WAITS && !fault->waited) {
			fault->waited = true;
			hfs_event(swap, HFS_EVENT_WAITED, 1);
		}
		if (outcome == HFS_LATER)
			timeout = RETRY;
		swap->queue[kept++] = *fault;
	}
	swap->queued = kept;
	return timeout;
}

static void enqueue(struct hfs *swap, int number, uint64_t address, uint64_t when)
{
	struct hfs_member *member = &swap->members[number];
	uint64_t offset;
	int each;

	for (each = 0; each < swap->region_count; each++) {
		offset = (address - member->base[each]) / HFS_PAGE;
		if (!member->base[each] || address < member->base[each] ||
		    offset >= swap->regions[each].pages)
			continue;
		swap->queue[swap->queued++] = (struct hfs_fault){
			.member = number, .page = swap->regions[each].first + offset, .when = when
		};
		return;
	}
}

/* Read and queue the events of a member; what the queue has no room for stays with the kernel. */
static void read_events(struct hfs *swap, int number)
{
	struct uffd_msg messages[BATCH];
	uint64_t when = now();
	ssize_t size;
	int each, count;

	do {
		if (swap->queued + BATCH > HFS_QUEUE)
			return;
		size = read(swap->members[number].uffd, messages, sizeof(messages));
		count = size > 0 ? (int)(size / (ssize_t)sizeof(*messages)) : 0;
		for (each = 0; each < count; each++) {
			if (messages[each].event != UFFD_EVENT_PAGEFAULT)
				continue;
			hfs_event(swap, HFS_EVENT_FAULTS, 1);
			enqueue(swap, number, messages[each].arg.pagefault.address, when);
		}
	} while (count == BATCH);
}

static int fill(struct hfs *swap, struct pollfd *fds, int *numbers)
{
	int number, count = 1;

	fds[0] = (struct pollfd){ .fd = swap->kick, .events = POLLIN };
	if (swap->queued + BATCH > HFS_QUEUE) /* faults are served again at the timeout, or by a kick */
		return count;
	for (number = 0; number < HFS_MEMBERS; number++) {
		if (atomic_load(&swap->members[number].state) != HFS_ALIVE)
			continue;
		fds[count] = (struct pollfd){ .fd = swap->members[number].uffd, .events = POLLIN };
		numbers[count++] = number;
	}
	return count;
}

static void *serve(void *argument)
{
	struct pollfd fds[HFS_MEMBERS + 1];
	int numbers[HFS_MEMBERS + 1], count, each, timeout = FOREVER;
	struct hfs *swap = argument;
	uint64_t kicks;

	while (!atomic_load(&swap->stop)) {
		count = fill(swap, fds, numbers);
		if (poll(fds, count, timeout) < 0)
			continue;
		hfs_begin_turn(swap);
		if (fds[0].revents && read(swap->kick, &kicks, sizeof(kicks)) < 0)
			kicks = 0;
		for (each = 1; each < count; each++) {
			if (atomic_load(&swap->members[numbers[each]].state) != HFS_ALIVE)
				continue;
			if (fds[each].revents & (POLLERR | POLLNVAL))
				hfs_mark_dead(swap, &swap->members[numbers[each]]);
			else if (fds[each].revents)
				read_events(swap, numbers[each]);
		}
		timeout = serve_queue(swap);
		hfs_end_turn(swap);
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
	hfs_wake_all(swap); /* faults whose events a previous monitor has read */
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
