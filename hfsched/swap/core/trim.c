/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker: trim; drops staged pages that are zero, or equal to their stale copy.
 */
#include "memory.h"
#include "stores.h"
#include "worker.h"

#include <errno.h>
#include <string.h>

/* Compare staged pages with their stale copies; those that are equal become PUNCHING. */
static int drop_clean(struct hfs *swap, const uint64_t *pages, const uint64_t *slots, int count,
		      bool *dropped)
{
	int first, end, each, error = 0;

	for (first = 0; first < count; first = end) {
		for (end = first + 1; end < count && slots[end] == slots[end - 1] + 1; end++)
			;
		error = hfs_read_direct(swap, slots[first], end - first, swap->buffer);
		if (error)
			continue; /* treated as not equal */
		for (each = first; each < end; each++)
			dropped[each] = !memcmp(hfs_source(swap, pages[each]),
						swap->buffer + (each - first) * HFS_PAGE, HFS_PAGE) &&
					hfs_drop_clean(&swap->table, pages[each]);
	}
	return error;
}

static int trim_run(struct hfs *swap, const uint64_t *pages, int count,
		    struct hfs_progress *progress)
{
	uint64_t stale[HFS_RUN], slots[HFS_RUN], out[HFS_RUN], entry, old;
	bool zero[HFS_RUN] = { false }, clean[HFS_RUN] = { false };
	int each, held = 0, used = 0, next = 0, error;

	for (each = 0; each < count; each++) {
		entry = hfs_entry(&swap->table, pages[each]);
		if (hfs_state(entry) != HFS_STAGED)
			continue;
		if (hfs_is_zero(hfs_source(swap, pages[each]))) {
			zero[each] = hfs_drop_zero(&swap->table, pages[each], &old);
			if (zero[each])
				hfs_free_copy(swap, old);
		} else if (hfs_copy(entry) == HFS_FILE) {
			stale[held] = pages[each];
			slots[held++] = hfs_location(entry);
		}
	}
	drop_clean(swap, stale, slots, held, clean);
	for (each = 0; each < count; each++) {
		hfs_discard_taken(swap, pages[each]);
		if (zero[each]) {
			progress->zero++;
		} else if (next < held && stale[next] == pages[each]) {
			if (!clean[next++])
				continue;
			progress->clean++;
		} else {
			continue;
		}
		out[used++] = pages[each];
	}
	error = hfs_punch_pages(swap, out, used);
	progress->moved += used;
	progress->place = HFS_IN_PUNCH;
	progress->error = -error;
	return error;
}

int hfs_trim(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	uint64_t pages[HFS_RUN];
	int count, error;

	memset(progress, 0, sizeof(*progress));
	if (atomic_load(&swap->table.header->phase) != HFS_SETTLED)
		return -EINVAL;
	error = hfs_begin(swap);
	if (error)
		return error;
	while (limit && !progress->error) {
		for (count = 0; count < HFS_RUN && (uint64_t)count < limit &&
				swap->trim_cursor < swap->table.pages;
		     swap->trim_cursor++)
			if (hfs_state(hfs_entry(&swap->table, swap->trim_cursor)) == HFS_STAGED)
				pages[count++] = swap->trim_cursor;
		if (!count) {
			progress->done = 1;
			swap->trim_cursor = 0;
			break;
		}
		trim_run(swap, pages, count, progress);
		limit -= count;
	}
	hfs_event(swap, HFS_EVENT_TRIMMED_ZERO, progress->zero);
	hfs_event(swap, HFS_EVENT_TRIMMED_CLEAN, progress->clean);
	hfs_end(swap);
	return 0;
}
