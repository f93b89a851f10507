/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker's way out: to the compressed tier and the file.
 *
 * Order: the copy is complete, then the page is PUNCHING, then its memory is given back, then it is
 * what its copy is.  A fault before PUNCHING takes the page back, and the copy's place is freed.
 */
#define _GNU_SOURCE
#include "worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* What has become of a page in a run. */
struct part {
	uint64_t page;
	int copy; /* HFS_RESIDENT: it could not be written */
	uint64_t location;
	uint32_t length;
};

bool hfs_is_zero(const uint8_t *page)
{
	uint64_t first;

	memcpy(&first, page, sizeof(first));
	return !first && !memcmp(page, page + sizeof(first), HFS_PAGE - sizeof(first));
}

int hfs_restore(struct hfs *swap, uint64_t page)
{
	uint64_t entry = hfs_entry(&swap->table, page);
	uint8_t *target = hfs_source(swap, page);

	switch (hfs_copy(entry)) {
	case HFS_FILE:
		return hfs_read(swap, hfs_location(entry), 1, target);
	case HFS_COMPRESSED:
		return hfs_expand(swap, entry, target);
	default:
		memset(target, 0, HFS_PAGE);
		return 0;
	}
}

/* Where a run of neighbours ends, in one region. */
static int neighbours(struct hfs *swap, const uint64_t *pages, int count)
{
	struct hfs_region *region = hfs_region_of(swap, pages[0]);
	int end = 1;

	while (end < count && pages[end] == pages[0] + end &&
	       pages[end] < region->first + region->pages)
		end++;
	return end;
}

/* Map pages that are in memory here, at once: faults take longer.  Without it all goes on, too. */
static void map_pages(struct hfs *swap, const uint64_t *pages, int count)
{
	int first, end;

	for (first = 0; first < count; first = end) {
		end = first + neighbours(swap, pages + first, count - first);
		if (end - first > 1)
			madvise(hfs_source(swap, pages[first]), (end - first) * (size_t)HFS_PAGE,
				MADV_POPULATE_READ);
	}
}

int hfs_punch_pages(struct hfs *swap, const uint64_t *pages, int count)
{
	int first, end, each, error = 0, result;
	uint64_t old;

	for (first = 0; first < count; first = end) {
		end = first + neighbours(swap, pages + first, count - first);
		result = hfs_punch(swap, pages[first], end - first, !swap->table.copy);
		if (result)
			error = result;
		for (each = first; each < end; each++) {
			if (!result) {
				hfs_punched(&swap->table, pages[each]);
			} else if (!hfs_restore(swap, pages[each])) {
				hfs_restored(&swap->table, pages[each], &old);
				hfs_let_go(swap, old);
			}
			/* else: its bytes are in the copy alone, and the take-over tries again */
		}
	}
	hfs_published(swap);
	return error;
}

/* Write pages that are neighbours in the file; how many were written, or -errno. */
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

/* Write all that is left for the file; errno of the first failure, or 0. */
static int write_parts(struct hfs *swap, struct part *parts, int count)
{
	int done = 0, each, written;
	uint64_t slot, slots;

	while (done < count) {
		slots = hfs_bits_take(&swap->slots, 1, count - done, &slot);
		if (!slots)
			return ENOSPC;
		written = write_run(swap, parts + done, slots, slot);
		if (written < 0 || (uint64_t)written < slots)
			hfs_bits_clear(&swap->slots, slot + (written < 0 ? 0 : written),
				       slots - (written < 0 ? 0 : written));
		if (written < 0)
			return -written;
		for (each = 0; each < written; each++) {
			parts[done + each].copy = HFS_FILE;
			parts[done + each].location = slot + each;
		}
		done += written;
	}
	return 0;
}

/* Claim the next staged pages. */
static int claim(struct hfs *swap, uint64_t *pages, int most)
{
	uint64_t old;
	int count = 0;

	for (; swap->out_cursor < swap->table.pages && count < most; swap->out_cursor++)
		if (hfs_claim(&swap->table, swap->out_cursor, &old)) {
			hfs_let_go(swap, old);
			pages[count++] = swap->out_cursor;
		}
	return count;
}

void hfs_forget_taken(struct hfs *swap, uint64_t page)
{
	struct hfs_table *table = &swap->table;

	if (!table->copy)
		return;
	if (hfs_state(hfs_entry(table, page)) == HFS_TAKING)
		hfs_quiesce(swap);
	if (hfs_state(hfs_entry(table, page)) == HFS_RESIDENT)
		hfs_punch(swap, page, 1, false);
}

/* Publish what has a copy, punch it, and take back the rest; pages out. */
static int publish(struct hfs *swap, const struct part *parts, int count, int *error)
{
	static const int events[HFS_STATES] = { [HFS_FILE] = HFS_WRITTEN,
						[HFS_COMPRESSED] = HFS_SQUEEZED,
						[HFS_ZERO] = HFS_TRIMMED_ZERO };
	uint64_t pages[HFS_RUN], place;
	int each, out = 0;

	for (each = 0; each < count; each++) {
		const struct part *part = &parts[each];

		if (part->copy == HFS_RESIDENT) {
			if (!hfs_unclaim(&swap->table, part->page))
				hfs_forget_taken(swap, part->page);
		} else if (hfs_publish(&swap->table, part->page, part->copy, part->location,
				       part->length)) {
			pages[out++] = part->page;
			hfs_event(swap, events[part->copy], 1);
		} else {
			place = (uint64_t)part->copy << 4 | (uint64_t)part->length << 8 |
				part->location << 24;
			hfs_let_go(swap, place);
			hfs_forget_taken(swap, part->page);
			hfs_event(swap, HFS_CANCELLED, 1);
		}
	}
	*error = -hfs_punch_pages(swap, pages, out);
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
	/* What goes to the file to the front, all else to the back. */
	for (each = 0; each < count; each++) {
		struct part part = { .page = pages[each] };

		source = hfs_source(swap, part.page);
		if (hfs_is_zero(source))
			part.copy = HFS_ZERO;
		else if (!hfs_squeeze(swap, source, &part.location, &part.length))
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
	progress->error = error ? error : punch_error;
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
		hfs_let_faults_go_first(swap);
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
