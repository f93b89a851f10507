/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The thread that serves page faults.  It takes no lock and never waits for the worker: a fault on
 * a page that is being published stays in its queue.  A page is RESIDENT in the table only when it
 * is in memory (or was never anywhere); so whatever moment this process is killed at, the same
 * fault can be served again by another.
 */
#define _GNU_SOURCE
#include "core.h"

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

enum outcome { SERVED, WAITS, LATER };

struct around {
	int answer; /* what the fault itself needed */
	uint64_t low, high; /* its window */
	uint64_t first, end; /* READ_FILE: what of it is in the buffer, */
	uint64_t entries[HFS_AROUND_MAX]; /* and the entries from `first` on */
};

static uint64_t address_of(struct hfs *swap, struct hfs_member *member, uint64_t page)
{
	struct hfs_region *region = hfs_region_of(swap, page);

	return member->base[region - swap->regions] + (page - region->first) * HFS_PAGE;
}

/* What a request's error means for the fault. */
static enum outcome failed(struct hfs *swap, struct hfs_member *member, uint64_t page, int error)
{
	if (error == -ESRCH) {
		hfs_lost(swap, member);
		return SERVED;
	}
	if (error == -ENOENT) { /* nothing is registered there any more */
		hfs_uffd_wake(member->uffd, address_of(swap, member, page), HFS_PAGE);
		return SERVED;
	}
	return LATER;
}

/*
 * The page is in memory, as `entry` says it should be: a copy in the tier may go.  Only if that is
 * still its entry: the worker may have found it in memory, and done with it what it likes.
 */
static bool arrived(struct hfs *swap, uint64_t page, uint64_t entry)
{
	if (!hfs_arrived_from(&swap->table, page, entry))
		return false;
	if (hfs_copy(entry) == HFS_COMPRESSED)
		hfs_let_go(swap, entry);
	return true;
}

/* Map a page that should be in memory, or a zero page where none ever was. -EAGAIN: look again. */
static int map_present(struct hfs *swap, int uffd, uint64_t address, uint64_t entry)
{
	int error = hfs_uffd_continue(uffd, address, HFS_PAGE);

	if (!error)
		hfs_event(swap, hfs_state(entry) == HFS_RESIDENT ? HFS_MAPPED : HFS_FROM_STAGING, 1);
	if (error == -EEXIST) {
		hfs_event(swap, HFS_REDUNDANT, 1);
		return hfs_uffd_wake(uffd, address, HFS_PAGE);
	}
	if (error != -EFAULT)
		return error;
	error = hfs_uffd_zero(uffd, address);
	if (!error)
		hfs_event(swap, HFS_ZEROED, 1);
	return error;
}

static bool follows(struct hfs *swap, uint64_t page, uint64_t slot)
{
	uint64_t entry = hfs_entry(&swap->table, page);

	return hfs_state(entry) == HFS_FILE && hfs_location(entry) == slot;
}

/* Read a page, and its neighbours in the window whose slots are neighbours too. */
static int read_run(struct hfs *swap, uint64_t page, uint64_t entry, struct around *around)
{
	uint64_t first = page, end = page + 1, slot = hfs_location(entry), each;

	while (first > around->low && slot > page - first &&
	       follows(swap, first - 1, slot - (page - first) - 1))
		first--;
	while (end < around->high && follows(swap, end, slot + (end - page)))
		end++;
	slot -= page - first;
	for (each = first; each < end; each++)
		around->entries[each - first] = hfs_file_entry(slot + (each - first));
	around->first = first;
	around->end = end;
	return hfs_read(swap, slot, end - first, swap->serve_buffer);
}

static int bring(struct hfs *swap, struct hfs_member *member, uint64_t page, uint64_t entry,
		 struct around *around)
{
	uint64_t address = address_of(swap, member, page), done;
	uint8_t *source = swap->serve_buffer;
	int error = 0;

	switch (around->answer) {
	case HFS_ZERO_PAGE:
		return hfs_uffd_zero(member->uffd, address);
	case HFS_READ_FILE:
		error = read_run(swap, page, entry, around);
		source += (page - around->first) * HFS_PAGE;
		break;
	case HFS_DECOMPRESS:
		error = hfs_expand(swap, entry, source);
		break;
	default:
		source = swap->staging + page * HFS_PAGE;
	}
	if (error)
		return -EIO;
	return hfs_uffd_copy(member->uffd, address, source, HFS_PAGE, &done);
}

static const int brought[] = {
	[HFS_ZERO_PAGE] = HFS_ZEROED,
	[HFS_READ_FILE] = HFS_FROM_FILE,
	[HFS_DECOMPRESS] = HFS_DECOMPRESSED,
	[HFS_COPY_STAGED] = HFS_FROM_STAGING,
};

static enum outcome serve_page(struct hfs *swap, struct hfs_member *member, uint64_t page,
			       struct around *around)
{
	uint64_t address = address_of(swap, member, page), entry;
	bool asked = false;
	int error;

	for (;;) {
		around->answer = hfs_fault(&swap->table, page, &entry);
		if (around->answer == HFS_WAIT) {
			if (asked)
				return WAITS;
			/* Whoever publishes it looks at this after having done so. */
			atomic_store(&swap->waiting, 1);
			asked = true;
			continue;
		}
		if (around->answer == HFS_CONTINUE) {
			error = map_present(swap, member->uffd, address, entry);
			if (error == -EEXIST)
				continue;
			if (hfs_state(entry) != HFS_STAGED)
				around->answer = HFS_WAIT; /* nothing for its neighbours */
			return error ? failed(swap, member, page, error) : SERVED;
		}
		error = bring(swap, member, page, entry, around);
		if (error && error != -EEXIST) {
			if (around->answer == HFS_COPY_STAGED)
				hfs_untake(&swap->table, page);
			if (error != -EIO)
				return failed(swap, member, page, error);
			if (hfs_entry(&swap->table, page) != entry)
				continue; /* somebody brought it meanwhile, and freed its place */
			hfs_event(swap, HFS_READ_ERRORS, 1);
			return LATER;
		}
		if (around->answer == HFS_COPY_STAGED) {
			hfs_punch(swap, page, 1, false);
			entry = hfs_taking_entry(entry);
		}
		/* Was it in memory already, or is it something else now?  Then again. */
		if (!arrived(swap, page, entry) || error)
			continue;
		hfs_event(swap, brought[around->answer], 1);
		return SERVED;
	}
}

static void copy_around(struct hfs *swap, struct hfs_member *member, uint64_t first, uint64_t end,
			const uint8_t *source, const uint64_t *entries, int answer)
{
	uint64_t done = 0, page, count = 0;

	if (first >= end)
		return;
	hfs_uffd_copy(member->uffd, address_of(swap, member, first), source,
		      (end - first) * HFS_PAGE, &done);
	for (page = first; page < first + done / HFS_PAGE; page++)
		count += arrived(swap, page, entries[page - first]);
	hfs_event(swap, brought[answer], count);
	hfs_event(swap, HFS_AROUND, count);
}

static void expand_around(struct hfs *swap, struct hfs_member *member, uint64_t first,
			  struct around *around)
{
	uint64_t page, entry;

	for (page = first; page < around->high; page++) {
		entry = hfs_entry(&swap->table, page);
		if (hfs_state(entry) != HFS_COMPRESSED ||
		    hfs_expand(swap, entry, swap->serve_buffer + (page - first) * HFS_PAGE))
			break;
		around->entries[page - first] = entry;
	}
	copy_around(swap, member, first, page, swap->serve_buffer, around->entries, HFS_DECOMPRESS);
}

static void continue_around(struct hfs *swap, struct hfs_member *member, uint64_t first,
			    uint64_t end)
{
	uint64_t page;

	for (page = first; page < end; page++)
		if (!hfs_unstage_page(&swap->table, page))
			break;
	if (page == first)
		return;
	hfs_uffd_continue(member->uffd, address_of(swap, member, first), (page - first) * HFS_PAGE);
	hfs_event(swap, HFS_FROM_STAGING, page - first);
	hfs_event(swap, HFS_AROUND, page - first);
}

/* What lies beside a page that was asked for, and is kept as it was, comes with it. */
static void serve_around(struct hfs *swap, struct hfs_member *member, uint64_t page,
			 struct around *around)
{
	uint64_t first = around->first, next = page + 1 - first;

	if (around->answer == HFS_READ_FILE) {
		copy_around(swap, member, page + 1, around->end,
			    swap->serve_buffer + next * HFS_PAGE, around->entries + next,
			    HFS_READ_FILE);
		copy_around(swap, member, first, page, swap->serve_buffer, around->entries,
			    HFS_READ_FILE);
	} else if (around->answer == HFS_DECOMPRESS) {
		expand_around(swap, member, page + 1, around);
	} else if (around->answer == HFS_CONTINUE) {
		continue_around(swap, member, page + 1, around->high);
	}
}

static void window(struct hfs *swap, uint64_t page, struct around *around)
{
	struct hfs_region *region = hfs_region_of(swap, page);
	uint64_t low = (page - region->first) / swap->around * swap->around;
	uint64_t high = low + swap->around;

	around->first = around->end = page;
	around->low = region->first + low;
	around->high = region->first + (high > region->pages ? region->pages : high);
}

/* Serve what is in the queue; the time until it must be looked at again, in ms, or -1. */
static int deal(struct hfs *swap)
{
	struct hfs_member *member;
	struct hfs_fault *fault;
	struct around around;
	enum outcome outcome;
	int each, kept = 0, timeout = -1;

	for (each = 0; each < swap->queued; each++) {
		fault = &swap->queue[each];
		member = &swap->members[fault->member];
		if (atomic_load(&member->state) != HFS_ALIVE)
			continue;
		window(swap, fault->page, &around);
		outcome = serve_page(swap, member, fault->page, &around);
		if (outcome == SERVED) {
			if (swap->around > 1 && swap->queued == 1)
				serve_around(swap, member, fault->page, &around);
			continue;
		}
		if (outcome == WAITS && !fault->waited) {
			fault->waited = true;
			hfs_event(swap, HFS_WAITED, 1);
		}
		if (outcome == LATER)
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

static void await_turn(struct hfs *swap, const struct timespec *timeout)
{
	uint32_t turn = atomic_load(&swap->turn);

	if (!(turn & 1))
		return;
	atomic_fetch_add(&swap->turn_awaited, 1);
	while (atomic_load(&swap->turn) == turn)
		if (syscall(SYS_futex, &swap->turn, FUTEX_WAIT_PRIVATE, turn, timeout, NULL, 0) &&
		    errno == ETIMEDOUT)
			break;
	atomic_fetch_sub(&swap->turn_awaited, 1);
}

void hfs_quiesce(struct hfs *swap)
{
	await_turn(swap, NULL);
}

/* For a moment: with faults without end the worker goes on all the same. */
void hfs_let_faults_go_first(struct hfs *swap)
{
	struct timespec moment = { .tv_nsec = 2000000 };

	await_turn(swap, &moment);
}

void hfs_published(struct hfs *swap)
{
	if (atomic_exchange(&swap->waiting, 0))
		hfs_kick(swap);
}
