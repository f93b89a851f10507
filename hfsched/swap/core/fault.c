/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * One fault: what the page needs, and its neighbours.
 *
 * A page is RESIDENT in the table only when it is in memory, or was never written.  So the process
 * may be killed at any moment, and another one can serve the same fault again.
 */
#include "fault.h"

#include <errno.h>

#include "frames.h"
#include "members.h"
#include "memory.h"
#include "owed.h"
#include "stores.h"
#include "turn.h"
#include "uffd.h"

static uint64_t address_of(struct hfs *swap, struct hfs_member *member, uint64_t page)
{
	struct hfs_region *region = hfs_region_of(swap, page);

	return member->base[region - swap->regions] + (page - region->first) * HFS_PAGE;
}

/* Handle the error of a userfaultfd request. */
static enum hfs_outcome failed(struct hfs *swap, struct hfs_member *member, uint64_t page, int error)
{
	if (error == -ESRCH) {
		hfs_mark_dead(swap, member);
		return HFS_SERVED;
	}
	if (error == -ENOENT) { /* nothing is registered there any more */
		hfs_uffd_wake(member->uffd, address_of(swap, member, page), HFS_PAGE);
		return HFS_SERVED;
	}
	if (error == -ENOMEM)
		hfs_event(swap, HFS_EVENT_NO_MEMORY, 1);
	return HFS_LATER;
}

/*
 * The page of `entry` is in memory: free its copy in the tier.  False: the entry has changed, since
 * the worker may have found the page in memory first, and moved it again.
 */
static bool arrived(struct hfs *swap, uint64_t page, uint64_t entry)
{
	if (!hfs_arrived_from(&swap->table, page, entry))
		return false;
	if (hfs_copy(entry) == HFS_COMPRESSED)
		hfs_free_copy(swap, entry);
	return true;
}

/* Map a page that should be in memory, or a zero page if it never was.  -EEXIST: look again. */
static int map_present(struct hfs *swap, struct hfs_target target, uint64_t address, uint64_t entry)
{
	int error = hfs_uffd_continue(target, address, HFS_PAGE);

	if (!error)
		hfs_event(swap, hfs_state(entry) == HFS_RESIDENT ? HFS_EVENT_MAPPED : HFS_EVENT_FROM_STAGING, 1);
	if (error == -EEXIST) {
		hfs_event(swap, HFS_EVENT_REDUNDANT, 1);
		return hfs_uffd_wake(target.uffd, address, HFS_PAGE);
	}
	if (error != -EFAULT)
		return error;
	error = hfs_uffd_zero(target, address);
	if (!error)
		hfs_event(swap, HFS_EVENT_ZEROED, 1);
	return error;
}

static bool follows(struct hfs *swap, uint64_t page, uint64_t slot)
{
	uint64_t entry = hfs_entry(&swap->table, page);

	return hfs_state(entry) == HFS_FILE && hfs_location(entry) == slot;
}

/* Read a page, and those neighbours in the window whose slots are adjacent too. */
static int read_run(struct hfs *swap, uint64_t page, uint64_t entry, struct hfs_around *around)
{
	uint64_t first = page, end = page + 1, slot = hfs_location(entry), each;
	int error;

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
	error = hfs_read(swap, slot, end - first, swap->serve_buffer);
	if (!error || end - first == 1)
		return error;
	around->entries[0] = around->entries[page - first]; /* the error may be a neighbour's */
	around->first = page;
	around->end = page + 1;
	return hfs_read(swap, hfs_location(entry), 1, swap->serve_buffer);
}

/* Whether a page is stored at a location of the same frame as the one before or after it. */
static bool stored_at(struct hfs *swap, uint64_t page, uint64_t location)
{
	uint64_t entry = hfs_entry(&swap->table, page);

	return hfs_state(entry) == HFS_STORED && hfs_location(entry) == location;
}

/* Read a page, and those neighbours in the window that follow each other in its frame. */
static const uint8_t *read_stored(struct hfs *swap, uint64_t page, uint64_t entry,
				  struct hfs_around *around)
{
	uint64_t first = page, end = page + 1, location = hfs_location(entry), each;
	uint64_t low = location / HFS_FRAME_PAGES * HFS_FRAME_PAGES, high = low + HFS_FRAME_PAGES;
	const uint8_t *source = hfs_stored_page(&swap->frames, &swap->serve_reader, location);

	if (!source) {
		hfs_alarm(swap, page);
		return NULL;
	}
	while (first > around->low && location - (page - first) > low &&
	       stored_at(swap, first - 1, location - (page - first) - 1))
		first--;
	while (end < around->high && location + (end - page) < high &&
	       stored_at(swap, end, location + (end - page)))
		end++;
	for (each = first; each < end; each++)
		around->entries[each - first] = hfs_stored_entry(location + each - page);
	around->first = first;
	around->end = end;
	around->source = source - (page - first) * HFS_PAGE;
	return source;
}

static int fetch(struct hfs *swap, struct hfs_member *member, uint64_t page, uint64_t entry,
		 struct hfs_around *around)
{
	uint64_t address = address_of(swap, member, page), done;
	struct hfs_target target = hfs_target_of(swap, member);
	const uint8_t *source = swap->serve_buffer;
	int error = 0;

	switch (around->action) {
	case HFS_ZERO_PAGE:
		return hfs_uffd_zero(target, address);
	case HFS_READ_FILE:
		error = read_run(swap, page, entry, around);
		around->source = swap->serve_buffer;
		source += (page - around->first) * HFS_PAGE;
		break;
	case HFS_READ_STORED:
		source = read_stored(swap, page, entry, around);
		error = source ? 0 : -EIO;
		break;
	case HFS_DECOMPRESS:
		error = hfs_decompress(swap, entry, swap->serve_buffer);
		break;
	default:
		source = swap->staging + page * HFS_PAGE;
	}
	if (error)
		return -EIO;
	return hfs_uffd_copy(target, address, source, HFS_PAGE, &done);
}

static const int fetch_event[] = {
	[HFS_ZERO_PAGE] = HFS_EVENT_ZEROED,
	[HFS_READ_FILE] = HFS_EVENT_FROM_FILE,
	[HFS_DECOMPRESS] = HFS_EVENT_DECOMPRESSED,
	[HFS_COPY_STAGED] = HFS_EVENT_FROM_STAGING,
	[HFS_READ_STORED] = HFS_EVENT_FROM_SNAPSHOT,
};

enum hfs_outcome hfs_serve_page(struct hfs *swap, struct hfs_member *member, uint64_t page,
				struct hfs_around *around)
{
	uint64_t address = address_of(swap, member, page), entry;
	bool asked = false;
	int error;

	for (;;) {
		if (hfs_keep_owed(swap, page, page + 1))
			return HFS_LATER;
		around->action = hfs_fault(&swap->table, page, &entry);
		if (around->action == HFS_WAIT) {
			if (asked)
				return HFS_WAITS;
			/* The worker reads this flag after it has published a page. */
			atomic_store(&swap->waiting, 1);
			asked = true;
			continue;
		}
		if (around->action == HFS_CONTINUE) {
			error = map_present(swap, hfs_target_of(swap, member), address, entry);
			if (error == -EEXIST)
				continue;
			/* It was staged meanwhile, and mapped after that: take it back. */
			if (!error && hfs_state(hfs_entry(&swap->table, page)) != HFS_RESIDENT)
				continue;
			if (hfs_state(entry) != HFS_STAGED)
				around->action = HFS_WAIT; /* do not serve neighbours */
			return error ? failed(swap, member, page, error) : HFS_SERVED;
		}
		error = fetch(swap, member, page, entry, around);
		if (error && error != -EEXIST) {
			if (around->action == HFS_COPY_STAGED)
				hfs_untake(&swap->table, page);
			if (error != -EIO)
				return failed(swap, member, page, error);
			if (hfs_entry(&swap->table, page) != entry)
				continue; /* the worker brought it meanwhile and freed its copy */
			hfs_event(swap, HFS_EVENT_READ_ERRORS, 1);
			return HFS_LATER;
		}
		if (around->action == HFS_COPY_STAGED) {
			hfs_punch(swap, page, 1, false);
			entry = hfs_taking_entry(entry);
		}
		/* If it was in memory already, or its entry has changed, start over. */
		if (!arrived(swap, page, entry) || error)
			continue;
		hfs_event(swap, fetch_event[around->action], 1);
		return HFS_SERVED;
	}
}

static void copy_around(struct hfs *swap, struct hfs_member *member, uint64_t first, uint64_t end,
			const uint8_t *source, const uint64_t *entries, int action)
{
	uint64_t done = 0, page, count = 0;

	if (first >= end)
		return;
	hfs_uffd_copy(hfs_target_of(swap, member), address_of(swap, member, first), source,
		      (end - first) * HFS_PAGE, &done);
	for (page = first; page < first + done / HFS_PAGE; page++)
		count += arrived(swap, page, entries[page - first]);
	hfs_event(swap, fetch_event[action], count);
	hfs_event(swap, HFS_EVENT_AROUND, count);
}

static void expand_around(struct hfs *swap, struct hfs_member *member, uint64_t first,
			  struct hfs_around *around)
{
	uint64_t page, entry;

	for (page = first; page < around->high; page++) {
		entry = hfs_entry(&swap->table, page);
		if (hfs_state(entry) != HFS_COMPRESSED ||
		    hfs_decompress(swap, entry, swap->serve_buffer + (page - first) * HFS_PAGE))
			break;
		around->entries[page - first] = entry;
	}
	copy_around(swap, member, first, page, swap->serve_buffer, around->entries, HFS_DECOMPRESS);
}

static void continue_around(struct hfs *swap, struct hfs_member *member, uint64_t first,
			    uint64_t end)
{
	uint64_t page, each;

	for (page = first; page < end; page++)
		if (!hfs_unstage_page(&swap->table, page))
			break;
	if (page == first)
		return;
	hfs_uffd_continue(hfs_target_of(swap, member), address_of(swap, member, first),
			  (page - first) * HFS_PAGE);
	for (each = first; each < page; each++)
		hfs_unstage_page(&swap->table, each); /* staged meanwhile, mapped after that */
	hfs_event(swap, HFS_EVENT_FROM_STAGING, page - first);
	hfs_event(swap, HFS_EVENT_AROUND, page - first);
}

void hfs_serve_around(struct hfs *swap, struct hfs_member *member, uint64_t page,
		      struct hfs_around *around)
{
	uint64_t first = around->first, next = page + 1 - first;

	if (around->action == HFS_READ_FILE || around->action == HFS_READ_STORED) {
		copy_around(swap, member, page + 1, around->end, around->source + next * HFS_PAGE,
			    around->entries + next, around->action);
		copy_around(swap, member, first, page, around->source, around->entries,
			    around->action);
	} else if (around->action == HFS_DECOMPRESS) {
		expand_around(swap, member, page + 1, around);
	} else if (around->action == HFS_CONTINUE) {
		continue_around(swap, member, page + 1, around->high);
	}
}

void hfs_window(struct hfs *swap, uint64_t page, struct hfs_around *around)
{
	struct hfs_region *region = hfs_region_of(swap, page);
	uint64_t low = (page - region->first) / swap->around * swap->around;
	uint64_t high = low + swap->around;

	around->first = around->end = page;
	around->low = region->first + low;
	around->high = region->first + (high > region->pages ? region->pages : high);
}
