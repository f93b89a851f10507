/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker: take over the page table of a dead monitor.
 */
#define _GNU_SOURCE
#include "memory.h"
#include "stores.h"
#include "worker.h"

#include <errno.h>
#include <string.h>

/*
 * Punch pages that a dead monitor may have been punching.  `stuck`: pages that can neither be
 * punched nor restored.  They stay PUNCHING: their bytes are in their copy alone.
 */
static void punch_again(struct hfs *swap, struct hfs_bits *present, struct hfs_bits *stuck)
{
	uint64_t page, old;
	int state, error;
	bool guest;

	for (page = 0; page < swap->table.pages; page++) {
		state = hfs_state(hfs_entry(&swap->table, page));
		if (state != HFS_PUNCHING && state != HFS_MOVING)
			continue;
		guest = state == HFS_MOVING || !swap->table.copy;
		error = hfs_punch(swap, page, 1, guest);
		if (!error) {
			if (guest)
				hfs_bits_clear(present, page, 1);
		} else if (state == HFS_MOVING) {
			memcpy(hfs_guest_page(swap, page), swap->staging + page * HFS_PAGE, HFS_PAGE);
			hfs_bits_set(present, page, 1);
		} else if (!hfs_restore(swap, page)) {
			hfs_restored(&swap->table, page, &old);
		} else {
			hfs_bits_set(stuck, page, 1);
		}
	}
}

/* Punch the staging memory of pages that are not staged. */
static void clean_staging(struct hfs *swap)
{
	uint64_t page, first, pages = swap->table.pages;

	for (page = 0; page < pages; page++) {
		for (first = page;
		     page < pages && hfs_state(hfs_entry(&swap->table, page)) != HFS_STAGED; page++)
			;
		if (page > first)
			hfs_punch(swap, first, page - first, false);
	}
}

/* Set [start, start + count); return whether it is within the bitmap and was clear. */
static bool mark(struct hfs_bits *bits, uint64_t start, uint64_t count)
{
	uint64_t each;

	if (start >= bits->count || count > bits->count - start)
		return false;
	for (each = start; each < start + count; each++)
		if (hfs_bit(bits, each))
			return false;
	hfs_bits_set(bits, start, count);
	return true;
}

/* Allocate what an entry's copy uses; return whether it is valid, and used by no other entry. */
static bool mark_place(struct hfs *swap, uint64_t entry)
{
	uint64_t length = hfs_length(entry), location = hfs_location(entry);

	if (hfs_copy(entry) == HFS_FILE)
		return mark(&swap->slots, location, 1);
	if (hfs_copy(entry) == HFS_STORED)
		return hfs_frames_have(&swap->frames, location);
	if (hfs_copy(entry) != HFS_COMPRESSED)
		return true;
	if (!length || length > HFS_PAGE || location % HFS_UNIT)
		return false;
	return !swap->tier || mark(&swap->spans, location / HFS_UNIT,
				   (length + HFS_UNIT - 1) / HFS_UNIT);
}

static bool mark_places(struct hfs *swap)
{
	uint64_t page;

	hfs_bits_clear(&swap->slots, 0, swap->slots.count);
	if (swap->tier)
		hfs_bits_clear(&swap->spans, 0, swap->spans.count);
	for (page = 0; page < swap->table.pages; page++)
		if (!mark_place(swap, hfs_entry(&swap->table, page)))
			return false;
	return true;
}

/* Return whether an entry is possible in a phase. */
static bool entry_is_valid(struct hfs *swap, uint64_t entry, int phase)
{
	static const unsigned int none = 1u << HFS_RESIDENT, file = 1u << HFS_FILE,
				  compressed = 1u << HFS_COMPRESSED, zero = 1u << HFS_ZERO;
	unsigned int copy = 1u << hfs_copy(entry);

	switch (hfs_state(entry)) {
	case HFS_RESIDENT:
		return phase == HFS_OFF ? entry == 0 : copy & (none | file);
	case HFS_STAGED:
		return phase != HFS_OFF && copy & (none | file);
	case HFS_MOVING:
	case HFS_TAKING:
		return phase != HFS_OFF && swap->table.copy && copy & (none | file);
	case HFS_WRITING:
		return phase != HFS_OFF && copy & none;
	case HFS_PUNCHING:
		return phase != HFS_OFF && copy & (file | compressed | zero);
	case HFS_FILE:
		return phase != HFS_OFF && copy & file;
	case HFS_COMPRESSED:
		return phase != HFS_OFF && copy & compressed;
	case HFS_ZERO:
		return phase != HFS_OFF && copy & zero;
	case HFS_STORED:
		return phase != HFS_OFF && copy & 1u << HFS_STORED;
	default:
		return false;
	}
}

/* The table is input: one that no monitor can have left is refused. */
static bool table_is_valid(struct hfs *swap)
{
	uint32_t phase = atomic_load(&swap->table.header->phase);
	uint64_t page;

	if (phase > HFS_SETTLED)
		return false;
	for (page = 0; page < swap->table.pages; page++)
		if (!entry_is_valid(swap, hfs_entry(&swap->table, page), (int)phase))
			return false;
	return mark_places(swap);
}

int hfs_take_over(struct hfs *swap)
{
	struct hfs_table *table = &swap->table;
	bool settled = atomic_load(&table->header->phase) == HFS_SETTLED;
	struct hfs_bits present, stuck = { 0 };
	uint64_t page;
	int error;

	if (!table_is_valid(swap))
		return -EINVAL;
	error = hfs_bits_open(&present, table->pages);
	if (!error)
		error = hfs_bits_open(&stuck, table->pages);
	if (!error)
		error = hfs_resident(swap, &present);
	if (error)
		goto end;
	punch_again(swap, &present, &stuck);
	for (page = 0; page < table->pages; page++)
		if (!hfs_bit(&stuck, page))
			hfs_take_over_page(table, page, hfs_bit(&present, page), settled);
	mark_places(swap);
	if (table->copy && swap->staging)
		clean_staging(swap);
	hfs_reset_cursors(swap);
end:
	hfs_bits_close(&present);
	hfs_bits_close(&stuck);
	return error;
}
