/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker: swap out, to the compressed tier and the file.
 *
 * Order: complete the copy; the page becomes PUNCHING; punch its memory; the page becomes what its
 * copy is.  A fault before PUNCHING takes the page back, and its copy is freed.
 */
#define _GNU_SOURCE
#include "ahead.h"
#include "memory.h"
#include "stores.h"
#include "turn.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* A page of a run, and its copy. */
struct part {
	uint64_t page;
	int copy; /* HFS_RESIDENT: it could not be written */
	uint64_t location;
	uint32_t length;
};

/* Populate the mapping of pages in memory in one call, as an optimization: faults take longer. */
static void map_pages(struct hfs *swap, const uint64_t *pages, int count)
{
	int first, end;

	for (first = 0; first < count; first = end) {
		end = first + hfs_neighbours(swap, pages + first, count - first);
		if (end - first > 1)
			madvise(hfs_source(swap, pages[first]), (end - first) * (size_t)HFS_PAGE,
				MADV_POPULATE_READ);
	}
}

/* Write pages to adjacent slots; return how many were written, or -errno. */
static int write_run(struct hfs *swap, const struct part *parts, int count, uint64_t slot)
{
	struct iovec pieces[HFS_RUN];
	int each, used = 0;
	uint8_t *source;
	ssize_t size;

	for (each = 0; each < count; each++) {
		source = hfs_source(swap, parts[each].page);
		if (used && (uint8_t *)pieces[used - 1].iov_base + pieces[used - 1].iov_len == source)
			pieces[used - 1].iov_len += HFS_PAGE;
		else
			pieces[used++] = (struct iovec){ source, HFS_PAGE };
	}
	do
		size = pwritev(swap->file_out, pieces, used, slot * HFS_PAGE);
	while (size < 0 && errno == EINTR);
	if (size < 0)
		return -errno;
	return size < (ssize_t)HFS_PAGE ? -ENOSPC : (int)(size / HFS_PAGE);
}

/* Write pages to the file; 0, or the -errno of the first failure. */
static int write_parts(struct hfs *swap, struct part *parts, int count)
{
	int done = 0, each, written;
	uint64_t slot, slots;

	while (done < count) {
		slots = hfs_bits_take(&swap->slots, 1, count - done, &slot);
		if (!slots)
			return -ENOSPC;
		written = write_run(swap, parts + done, slots, slot);
		if (written < 0 || (uint64_t)written < slots)
			hfs_bits_clear(&swap->slots, slot + (written < 0 ? 0 : written),
				       slots - (written < 0 ? 0 : written));
		if (written < 0)
			return written;
		for (each = 0; each < written; each++) {
			parts[done + each].copy = HFS_FILE;
			parts[done + each].location = slot + each;
		}
		done += written;
	}
	return 0;
}

/* Claim the next staged pages, at most `most`; how many. */
static int claim(struct hfs *swap, uint64_t *pages, int most)
{
	uint64_t old;
	int count = 0;

	for (; swap->out_cursor < swap->table.pages && count < most; swap->out_cursor++)
		if (hfs_claim(&swap->table, swap->out_cursor, &old)) {
			hfs_free_copy(swap, old);
			pages[count++] = swap->out_cursor;
		}
	return count;
}

/* Publish and punch pages that have a copy, unclaim the rest; return how many are out. */
static int publish(struct hfs *swap, const struct part *parts, int count, int *error)
{
	static const int events[HFS_STATES] = { [HFS_FILE] = HFS_EVENT_WRITTEN,
						[HFS_COMPRESSED] = HFS_EVENT_COMPRESSED,
						[HFS_ZERO] = HFS_EVENT_TRIMMED_ZERO };
	uint64_t pages[HFS_RUN], place;
	int each, out = 0;

	for (each = 0; each < count; each++) {
		const struct part *part = &parts[each];

		if (part->copy == HFS_RESIDENT) {
			if (!hfs_unclaim(&swap->table, part->page))
				hfs_discard_taken(swap, part->page);
		} else if (hfs_publish(&swap->table, part->page, part->copy, part->location,
				       part->length)) {
			pages[out++] = part->page;
			hfs_event(swap, events[part->copy], 1);
		} else {
			place = (uint64_t)part->copy << 4 | (uint64_t)part->length << 8 |
				part->location << 24;
			hfs_free_copy(swap, place);
			hfs_discard_taken(swap, part->page);
			hfs_event(swap, HFS_EVENT_CANCELLED, 1);
		}
	}
	*error = hfs_punch_pages(swap, pages, out);
	return out;
}

static int by_page(const void *one, const void *other)
{
	const struct part *left = one, *right = other;

	return (left->page > right->page) - (left->page < right->page);
}

static int out_run(struct hfs *swap, const uint64_t *pages, int count,
		   struct hfs_progress *progress)
{
	struct part parts[HFS_RUN];
	int front = 0, back = count, each, error, punch_error;
	uint8_t *source;

	map_pages(swap, pages, count);
	/* Pages for the file go to the front, all others to the back. */
	for (each = 0; each < count; each++) {
		struct part part = { .page = pages[each] };

		source = hfs_source(swap, part.page);
		if (hfs_is_zero(source))
			part.copy = HFS_ZERO;
		else if (!hfs_compress(swap, source, &part.location, &part.length))
			part.copy = HFS_COMPRESSED;
		if (part.copy)
			parts[--back] = part;
		else
			parts[front++] = part;
	}
	error = front ? write_parts(swap, parts, front) : 0;
	qsort(parts, count, sizeof(*parts), by_page);
	for (each = 0; each < count; each++)
		if (parts[each].copy == HFS_RESIDENT && parts[each].page < swap->out_cursor)
			swap->out_cursor = parts[each].page;
	progress->moved += publish(swap, parts, count, &punch_error);
	progress->place = error ? HFS_IN_FILE : HFS_IN_PUNCH;
	progress->error = -(error ? error : punch_error);
	return progress->error;
}

int hfs_swap_out(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	uint64_t pages[HFS_RUN], left;
	int count, error;

	memset(progress, 0, sizeof(*progress));
	if (atomic_load(&swap->table.header->phase) != HFS_SETTLED)
		return -EINVAL;
	error = hfs_begin(swap);
	if (error)
		return error;
	hfs_ahead_drop(swap);
	while (limit) {
		hfs_yield_to_faults(swap);
		left = limit < HFS_RUN ? limit : HFS_RUN;
		count = claim(swap, pages, left);
		if (!count) {
			progress->done = 1;
			swap->out_cursor = 0;
			break;
		}
		if (out_run(swap, pages, count, progress))
			break;
		limit -= count;
	}
	hfs_end(swap);
	return 0;
}
