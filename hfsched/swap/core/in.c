/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker: swap in; first staged pages, then compressed ones, then those of the file, then those that
 * are in a snapshot's layers.
 */
#define _GNU_SOURCE
#include "ahead.h"
#include "frames.h"
#include "members.h"
#include "memory.h"
#include "stores.h"
#include "turn.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <string.h>

/* Find a member that has a page mapped, a static one if there is one; its number, or -ESRCH. */
static int copy_target(struct hfs *swap, uint64_t page, uint64_t *address)
{
	struct hfs_region *region = hfs_region_of(swap, page);
	struct hfs_member *member;
	int number, dynamic;

	for (dynamic = 0; dynamic < 2; dynamic++) {
		for (number = 0; number < HFS_MEMBERS; number++) {
			member = &swap->members[number];
			if (atomic_load(&member->state) != HFS_ALIVE ||
			    member->dynamic != dynamic || !member->base[region - swap->regions])
				continue;
			*address = member->base[region - swap->regions] +
				   (page - region->first) * HFS_PAGE;
			return number;
		}
	}
	return -ESRCH;
}

/* Copy adjacent pages of one region in, and mark them as arrived; 0 or -errno. */
static int copy_in(struct hfs *swap, uint64_t first, int count, const uint8_t *source,
		   unsigned int states, uint64_t *moved)
{
	uint64_t address, done = 0, page, size = (uint64_t)count * HFS_PAGE;
	int number, error;

	do {
		number = copy_target(swap, first, &address);
		if (number < 0)
			return number;
		error = hfs_uffd_copy(hfs_target_of(swap, &swap->members[number]), address, source,
				      size, &done);
		if (error == -ESRCH)
			hfs_mark_dead(swap, &swap->members[number]);
	} while (error == -ESRCH);
	if (error == -EEXIST) { /* the result for a range of one page */
		done = size;
		error = 0;
	}
	for (page = first; page < first + done / HFS_PAGE; page++)
		*moved += hfs_page_arrived(swap, page, states);
	return error;
}

static bool same_region(struct hfs *swap, uint64_t one, uint64_t other)
{
	return hfs_region_of(swap, one) == hfs_region_of(swap, other);
}

/* Part 0, minor staging: the pages are in memory already. */
static int unstage_some(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	for (; swap->in_cursor < swap->table.pages && progress->moved < limit; swap->in_cursor++)
		progress->moved += hfs_unstage_page(&swap->table, swap->in_cursor);
	return 0;
}

/* Part 0, copy staging. */
static int copy_staged(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	struct hfs_table *table = &swap->table;
	uint64_t first, page, before, old;
	int error = 0;

	while (swap->in_cursor < table->pages && progress->moved < limit && !error) {
		first = swap->in_cursor;
		for (page = first; page < table->pages && page - first < HFS_RUN &&
				   page - first < limit - progress->moved &&
				   same_region(swap, first, page) &&
				   hfs_state(hfs_entry(table, page)) == HFS_STAGED &&
				   hfs_fault(table, page, &old) == HFS_COPY_STAGED;
		     page++)
			;
		if (page == first) {
			swap->in_cursor++;
			continue;
		}
		before = progress->moved;
		error = copy_in(swap, first, page - first, swap->staging + first * HFS_PAGE,
				1u << HFS_TAKING, &progress->moved);
		before = first + (progress->moved - before); /* the first that has not arrived */
		if (before > first)
			hfs_punch(swap, first, before - first, false);
		for (swap->in_cursor = before; before < page; before++)
			hfs_untake(table, before);
		hfs_notify_published(swap);
	}
	return error;
}

/* Part 1. */
static int expand_some(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	struct hfs_table *table = &swap->table;
	uint64_t first, page, entry;
	int error = 0;

	while (swap->in_cursor < table->pages && progress->moved < limit && !error) {
		first = swap->in_cursor;
		for (page = first; page < table->pages && page - first < HFS_RUN &&
				   page - first < limit - progress->moved &&
				   same_region(swap, first, page);
		     page++) {
			entry = hfs_entry(table, page);
			if (hfs_state(entry) != HFS_COMPRESSED)
				break;
			/* If a fault was first, the span may hold another page already. */
			error = hfs_decompress(swap, entry, swap->buffer + (page - first) * HFS_PAGE);
			if (error && hfs_entry(table, page) == entry)
				break;
			error = 0;
		}
		if (page > first) {
			int result = copy_in(swap, first, page - first, swap->buffer,
					     1u << HFS_COMPRESSED, &progress->moved);

			if (!error)
				error = result;
		}
		if (!error)
			swap->in_cursor = page > first ? page : page + 1;
		progress->place = error == -EIO ? HFS_IN_TIER : HFS_IN_MEMORY;
	}
	if (swap->tier && swap->in_cursor == table->pages)
		hfs_punch_tier(swap);
	return error;
}

/* Collect pages from `*cursor` on whose slots are adjacent, in this order; how many. */
static int gather(struct hfs *swap, uint64_t *cursor, uint64_t limit, uint64_t *pages,
		  uint64_t *slot)
{
	uint64_t page, entry;
	int count = 0;

	for (page = *cursor; page < swap->table.pages && (uint64_t)count < limit && count < HFS_RUN;
	     page++) {
		entry = hfs_entry(&swap->table, page);
		if (hfs_state(entry) != HFS_FILE)
			continue;
		if (!count)
			*slot = hfs_location(entry);
		else if (hfs_location(entry) != *slot + count)
			break;
		pages[count++] = page;
	}
	*cursor = count ? pages[count - 1] + 1 : page;
	return count;
}

/* Begin to read the run after this one. */
static void look_ahead(struct hfs *swap)
{
	uint64_t pages[HFS_RUN], slot = 0, cursor = swap->in_cursor;
	int count = gather(swap, &cursor, HFS_RUN, pages, &slot);

	if (count)
		hfs_ahead_begin(swap, slot, count);
}

/* Copy in pages that are adjacent in the buffer, but not all in guest memory. */
static int copy_parts(struct hfs *swap, const uint64_t *pages, int count, const uint8_t *source,
		      struct hfs_progress *progress)
{
	int first, end, error = 0;

	for (first = 0; first < count && !error; first = end) {
		for (end = first + 1; end < count && pages[end] == pages[end - 1] + 1 &&
				      same_region(swap, pages[first], pages[end]);
		     end++)
			;
		error = copy_in(swap, pages[first], end - first,
				source + (uint64_t)first * HFS_PAGE, 1u << HFS_FILE,
				&progress->moved);
	}
	return error;
}

/* Part 2: the next run is read while one is copied in. */
static int read_some(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	uint64_t pages[HFS_RUN], slot = 0, start;
	const uint8_t *source;
	int count, error = 0;

	if (progress->tried < progress->moved)
		progress->tried = progress->moved;
	while (swap->in_cursor < swap->table.pages && progress->tried < limit) {
		start = swap->in_cursor;
		count = gather(swap, &swap->in_cursor, limit - progress->tried, pages, &slot);
		if (!count)
			break;
		progress->tried += count;
		source = hfs_ahead_take(swap, slot, count);
		if (!source) {
			progress->place = HFS_IN_FILE;
			error = hfs_read_direct(swap, slot, count, swap->buffer);
			source = swap->buffer;
		}
		if (!error) {
			look_ahead(swap);
			progress->place = HFS_IN_MEMORY;
			error = copy_parts(swap, pages, count, source, progress);
		}
		if (error) {
			swap->in_cursor = start;
			break;
		}
	}
	return error;
}

/*
 * Read the frame of a page, and copy in those that follow it both there and in memory.  How many pages
 * were looked at; `*error` is that of copying.
 */
static uint64_t bring(struct hfs *swap, uint64_t page, uint64_t limit,
		      struct hfs_progress *progress, int *error)
{
	uint64_t entry = hfs_entry(&swap->table, page), location = hfs_location(entry), end = page + 1;
	const uint8_t *source;

	if (hfs_state(entry) != HFS_STORED)
		return 1;
	while (end < swap->table.pages && end - page < limit && same_region(swap, page, end) &&
	       (location + end - page) % HFS_FRAME_PAGES &&
	       hfs_entry(&swap->table, end) == hfs_stored_entry(location + end - page))
		end++;
	progress->tried += end - page;
	source = hfs_stored_page(&swap->frames, &swap->reader, location);
	if (!source) { /* its VM ends when it accesses the page, and not before */
		swap->unreadable = true;
		return end - page;
	}
	progress->place = HFS_IN_MEMORY;
	*error = copy_in(swap, page, end - page, source, 1u << HFS_STORED, &progress->moved);
	return end - page;
}

/* Part 3: what was touched last first. */
static int bring_hot(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	uint64_t count = swap->frames.header ? swap->frames.header->hot : 0;
	int error = 0;

	while (swap->in_cursor < count && progress->tried < limit && !error) {
		bring(swap, swap->frames.hot[swap->in_cursor], 1, progress, &error);
		swap->in_cursor += !error;
	}
	if (swap->in_cursor >= count && !error)
		swap->in_cursor = swap->table.pages;
	return error;
}

/* Part 4. */
static int bring_some(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	uint64_t count;
	int error = 0;

	while (swap->in_cursor < swap->table.pages && progress->tried < limit && !error) {
		count = bring(swap, swap->in_cursor, limit - progress->tried, progress, &error);
		swap->in_cursor += error ? 0 : count;
	}
	return error;
}

/* Punch pages again that could neither be punched nor restored: faults on them wait. */
static int punch_what_is_left(struct hfs *swap)
{
	uint64_t page;
	int error;

	for (page = 0; page < swap->table.pages; page++) {
		if (hfs_state(hfs_entry(&swap->table, page)) != HFS_PUNCHING)
			continue;
		error = hfs_punch_pages(swap, &page, 1);
		if (hfs_state(hfs_entry(&swap->table, page)) == HFS_PUNCHING)
			return error;
	}
	return 0;
}

/*
 * Whether a part may have pages.  What a fault has taken, or another place has given up, may come back in any
 * state: then nothing is known.
 */
static bool has_pages(struct hfs *swap, int part)
{
	static const unsigned int wanted[] = { 1u << HFS_STAGED, 1u << HFS_COMPRESSED, 1u << HFS_FILE,
					       1u << HFS_STORED, 1u << HFS_STORED };
	const unsigned int at_rest = 1u << HFS_RESIDENT | 1u << HFS_ZERO | 1u << HFS_STAGED |
				     1u << HFS_COMPRESSED | 1u << HFS_FILE | 1u << HFS_STORED;

	return swap->in_states & (wanted[part] | ~at_rest);
}

int hfs_swap_in(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	int error = hfs_begin(swap);

	memset(progress, 0, sizeof(*progress));
	if (error)
		return error;
	progress->place = HFS_IN_PUNCH;
	if (!swap->in_part && !swap->in_cursor) {
		swap->in_states = hfs_states(&swap->table);
		if (swap->in_states & 1u << HFS_PUNCHING)
			error = punch_what_is_left(swap);
	}
	if (!error)
		progress->place = HFS_IN_MEMORY;
	while (!error && progress->moved < limit && progress->tried < limit) {
		if (!swap->in_cursor && !has_pages(swap, swap->in_part))
			swap->in_cursor = swap->table.pages;
		else if (swap->in_part == 0)
			error = swap->table.copy ? copy_staged(swap, limit, progress) :
						   unstage_some(swap, limit, progress);
		else if (swap->in_part == 1)
			error = expand_some(swap, limit, progress);
		else if (swap->in_part == 2)
			error = read_some(swap, limit, progress);
		else if (swap->in_part == 3)
			error = bring_hot(swap, limit, progress);
		else
			error = bring_some(swap, limit, progress);
		if (!error && swap->in_cursor == swap->table.pages) {
			swap->in_cursor = 0;
			if (++swap->in_part < 5)
				continue;
			swap->in_part = 0;
			progress->done = hfs_all_present(swap);
			if (!progress->done && swap->unreadable) {
				progress->place = HFS_IN_SNAPSHOT;
				error = -EIO;
			}
			swap->unreadable = false;
			break;
		}
	}
	progress->error = -error;
	progress->fills = swap->in_part >= 3;
	hfs_end(swap);
	return 0;
}
