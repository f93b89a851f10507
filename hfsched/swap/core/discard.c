/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker: discard; pages whose contents nobody needs become zero, wherever they are.
 */
#define _GNU_SOURCE
#include "memory.h"
#include "stores.h"
#include "turn.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* Return the end of the run of pages from `first` that lie in one region. */
static uint64_t run_end(struct hfs *swap, uint64_t first, uint64_t end)
{
	struct hfs_region *region = hfs_region_of(swap, first);
	uint64_t last = region->first + region->pages;

	return end < last ? end : last;
}

/* No range is registered, and a guest may touch the page again at once. */
static int punch_unregistered(struct hfs *swap, uint64_t first, uint64_t end)
{
	uint64_t next;
	int error = 0, result;

	for (; first < end; first = next) {
		next = run_end(swap, first, end);
		result = hfs_punch(swap, first, next - first, true);
		if (result && result != -EBUSY)
			error = result;
	}
	return error;
}

static void free_copies(struct hfs *swap, const uint64_t *entries, int count)
{
	int each, end;

	for (each = 0; each < count; each++)
		hfs_free_copy(swap, entries[each]);
	for (each = 0; each < count; each = end) {
		end = each + 1;
		if (hfs_copy(entries[each]) != HFS_FILE)
			continue;
		while (end < count && hfs_copy(entries[end]) == HFS_FILE &&
		       hfs_location(entries[end]) == hfs_location(entries[end - 1]) + 1)
			end++;
		hfs_punch_file(swap, hfs_location(entries[each]), end - each);
	}
}

/* Make a page PUNCHING; false: it is zero already, or `*busy` is counted. */
static bool claim(struct hfs *swap, uint64_t page, uint64_t *entry, int *busy)
{
	int state;

	while (!hfs_discard_page(&swap->table, page, entry)) {
		state = hfs_state(hfs_entry(&swap->table, page));
		if (state == HFS_ZERO)
			return false;
		if (state == HFS_TAKING) {
			hfs_quiesce(swap); /* its fault is being served */
		} else if (state == HFS_PUNCHING || state == HFS_WRITING || state == HFS_MOVING) {
			++*busy;
			return false;
		} /* else: a fault brought it meanwhile */
	}
	return true;
}

/* Discard [first, end), at most HFS_RUN pages; return how many were busy. */
static int discard_run(struct hfs *swap, uint64_t first, uint64_t end,
		       struct hfs_progress *progress)
{
	uint64_t pages[HFS_RUN], entries[HFS_RUN], page;
	int used = 0, each, next, result, busy = 0;

	for (page = first; page < end; page++)
		if (claim(swap, page, &entries[used], &busy))
			pages[used++] = page;
	/* A fault that had read the entry before may put the page into memory once more, or read the copy. */
	hfs_quiesce(swap);
	free_copies(swap, entries, used);
	for (each = 0; each < used; each = next) {
		next = each + hfs_neighbours(swap, pages + each, used - each);
		if (swap->table.copy)
			hfs_punch(swap, pages[each], next - each, false);
		result = hfs_punch(swap, pages[each], next - each, true);
		if (result) { /* hfs_swap_in or a take-over tries again */
			progress->error = -result;
			progress->place = HFS_IN_PUNCH;
			continue;
		}
		progress->moved += next - each;
		for (page = pages[each]; page < pages[each] + (next - each); page++)
			hfs_punched(&swap->table, page);
	}
	hfs_notify_published(swap);
	return busy;
}

int hfs_discard(struct hfs *swap, uint64_t first, uint64_t count, struct hfs_progress *progress)
{
	uint64_t end = first + count, next;
	int error, busy = 0;

	memset(progress, 0, sizeof(*progress));
	if (first > swap->table.pages || count > swap->table.pages - first)
		return -EINVAL;
	error = hfs_begin(swap);
	if (error)
		return error;
	if (atomic_load(&swap->table.header->phase) == HFS_OFF) {
		progress->error = -punch_unregistered(swap, first, end);
		progress->place = HFS_IN_PUNCH;
		progress->moved = count;
	} else {
		/*
		 * A page that counts as zero is left alone; but one that a fault has mapped counts as zero until that
		 * has been noted, and its guest may have written it meanwhile.
		 */
		hfs_quiesce(swap);
		for (; first < end; first = next) {
			next = end - first > HFS_RUN ? first + HFS_RUN : end;
			busy += discard_run(swap, first, next, progress);
		}
		if (swap->tier)
			hfs_punch_tier(swap);
	}
	progress->done = !busy && !progress->error;
	hfs_event(swap, HFS_EVENT_DISCARDED, progress->moved);
	hfs_end(swap);
	return 0;
}
