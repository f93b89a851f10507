/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker, where a time of swapping begins and ends: stage, unstage, take over, release.
 */
#define _GNU_SOURCE
#include "worker.h"

#include <string.h>
#include <unistd.h>

static void set_phase(struct hfs *swap, enum hfs_phase phase)
{
	atomic_store(&swap->table.header->phase, phase);
}

static void reset_cursors(struct hfs *swap)
{
	swap->trim_cursor = swap->out_cursor = swap->in_cursor = 0;
	swap->in_part = 0;
}

/* Register every member, or none. */
static int register_all(struct hfs *swap)
{
	int number, error = 0;

	for (number = 0; number < HFS_MEMBERS && !error; number++)
		if (atomic_load(&swap->members[number].state) == HFS_ALIVE)
			error = hfs_register(swap, number, 1);
	if (error)
		while (number-- > 0)
			if (atomic_load(&swap->members[number].state) == HFS_ALIVE)
				hfs_register(swap, number, 0);
	return error;
}

static uint8_t *guest_page(struct hfs *swap, uint64_t page)
{
	struct hfs_region *region = hfs_region_of(swap, page);

	return region->map + (page - region->first) * HFS_PAGE;
}

/* Copy resident pages [first, end) of one region to the staging memory, and punch them. */
static int64_t move_run(struct hfs *swap, uint64_t first, uint64_t end)
{
	uint64_t size = (end - first) * HFS_PAGE, page;
	int error;

	memcpy(swap->staging + first * HFS_PAGE, guest_page(swap, first), size);
	for (page = first; page < end; page++)
		hfs_move(&swap->table, page); /* nobody else changes a RESIDENT page */
	error = hfs_punch(swap, first, end - first, true);
	if (error)
		memcpy(guest_page(swap, first), swap->staging + first * HFS_PAGE, size);
	for (page = first; page < end; page++) {
		hfs_moved(&swap->table, page);
		if (error)
			hfs_page_arrived(swap, page, 1u << HFS_STAGED);
	}
	hfs_published(swap);
	return error ? error : (int64_t)(end - first);
}

/* The end of a run of pages, from `page`, that are RESIDENT and in one region. */
static uint64_t run_end(struct hfs *swap, struct hfs_bits *present, uint64_t page)
{
	struct hfs_region *region = hfs_region_of(swap, page);
	uint64_t end = page;

	while (end < region->first + region->pages && end < page + HFS_RUN &&
	       hfs_bit(present, end) && hfs_state(hfs_entry(&swap->table, end)) == HFS_RESIDENT)
		end++;
	return end;
}

static int64_t stage_pages(struct hfs *swap, struct hfs_bits *present)
{
	struct hfs_table *table = &swap->table;
	uint64_t page = 0, end;
	int64_t staged = 0, result;

	while (page < table->pages) {
		if (!table->copy) {
			staged += hfs_bit(present, page) && hfs_stage_page(table, page);
			page++;
			continue;
		}
		end = run_end(swap, present, page);
		if (end == page) {
			page++;
			continue;
		}
		result = move_run(swap, page, end);
		if (result < 0)
			return result;
		staged += result;
		page = end;
	}
	return staged;
}

int64_t hfs_stage(struct hfs *swap)
{
	bool first = atomic_load(&swap->table.header->phase) == HFS_OFF;
	struct hfs_bits present;
	int64_t result;

	result = hfs_begin(swap);
	if (result)
		return result;
	result = hfs_bits_open(&present, swap->table.pages);
	if (result)
		goto end;
	if (first) {
		result = register_all(swap);
		if (result)
			goto end;
	}
	/* A fault that is under way may have read an entry from before pages came in again. */
	hfs_quiesce(swap);
	reset_cursors(swap);
	set_phase(swap, HFS_MARKED);
	result = hfs_resident(swap, &present);
	if (!result)
		result = stage_pages(swap, &present);
end:
	hfs_bits_close(&present);
	hfs_end(swap);
	return result;
}

int hfs_zapped(struct hfs *swap)
{
	if (atomic_load(&swap->table.header->phase) == HFS_OFF)
		return -EINVAL;
	/* A fault from before a page was staged may map it only now, and takes it back then. */
	hfs_quiesce(swap);
	set_phase(swap, HFS_SETTLED);
	return 0;
}

/* With minor staging alone; what was copied comes back by hfs_swap_in. */
int hfs_unstage(struct hfs *swap)
{
	uint64_t page;
	int error = hfs_begin(swap);

	if (error)
		return error;
	for (page = 0; page < swap->table.pages && !swap->table.copy; page++)
		hfs_unstage_page(&swap->table, page);
	reset_cursors(swap);
	if (atomic_load(&swap->table.header->phase) == HFS_MARKED)
		set_phase(swap, HFS_SETTLED);
	hfs_end(swap);
	return 0;
}

/*
 * Punch again what a dead monitor may have been punching.  `stuck`: what can neither be given back
 * nor restored.  It stays PUNCHING: its copy alone has its bytes, whatever is in memory.
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
			memcpy(guest_page(swap, page), swap->staging + page * HFS_PAGE, HFS_PAGE);
			hfs_bits_set(present, page, 1);
		} else if (!hfs_restore(swap, page)) {
			hfs_restored(&swap->table, page, &old);
		} else {
			hfs_bits_set(stuck, page, 1);
		}
	}
}

/* What is in the staging memory of pages that are not staged is of no use. */
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

/* Whether the places [start, start + count) are there, and were free; they are taken now. */
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

/* Whether the place of an entry's copy is one, and nobody else's. */
static bool mark_place(struct hfs *swap, uint64_t entry)
{
	uint64_t length = hfs_length(entry), location = hfs_location(entry);

	if (hfs_copy(entry) == HFS_FILE)
		return mark(&swap->slots, location, 1);
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

/* Whether a page can be like this at all. */
static bool sane(struct hfs *swap, uint64_t entry, int phase)
{
	static const unsigned int none = 1u << HFS_RESIDENT, file = 1u << HFS_FILE,
				  squeezed = 1u << HFS_COMPRESSED, zero = 1u << HFS_ZERO;
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
		return phase != HFS_OFF && copy & (file | squeezed | zero);
	case HFS_FILE:
		return phase != HFS_OFF && copy & file;
	case HFS_COMPRESSED:
		return phase != HFS_OFF && copy & squeezed;
	case HFS_ZERO:
		return phase != HFS_OFF && copy & zero;
	default:
		return false;
	}
}

/* Somebody else wrote the table: nothing is done with one that no monitor can have left. */
static bool table_is_sane(struct hfs *swap)
{
	uint32_t phase = atomic_load(&swap->table.header->phase);
	uint64_t page;

	if (phase > HFS_SETTLED)
		return false;
	for (page = 0; page < swap->table.pages; page++)
		if (!sane(swap, hfs_entry(&swap->table, page), (int)phase))
			return false;
	return mark_places(swap);
}

/* Before hfs_start, with a table that another monitor has left.  -EINVAL: that is none. */
int hfs_take_over(struct hfs *swap)
{
	struct hfs_table *table = &swap->table;
	bool settled = atomic_load(&table->header->phase) == HFS_SETTLED;
	struct hfs_bits present, stuck = { 0 };
	uint64_t page;
	int error;

	if (!table_is_sane(swap))
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
	reset_cursors(swap);
end:
	hfs_bits_close(&present);
	hfs_bits_close(&stuck);
	return error;
}

/* A positive errno: it is done, but for the file, whose room could not be given back. */
int hfs_release(struct hfs *swap, int slow)
{
	struct hfs_table *table = &swap->table;
	int number, state, error = hfs_begin(swap);
	uint64_t page, old;

	if (error)
		return error;
	hfs_quiesce(swap);
	for (page = 0; page < table->pages; page++) {
		state = hfs_state(hfs_entry(table, page));
		if (state != HFS_RESIDENT && state != HFS_ZERO) {
			hfs_end(swap);
			return -EBUSY;
		}
	}
	for (number = 0; number < HFS_MEMBERS; number++)
		if (atomic_load(&swap->members[number].state) == HFS_ALIVE)
			hfs_register(swap, number, 0);
	for (page = 0; page < table->pages; page++)
		if (hfs_release_page(table, page, &old))
			hfs_let_go(swap, old);
	set_phase(swap, HFS_OFF);
	reset_cursors(swap);
	if (swap->tier)
		hfs_give_back(swap);
	if (swap->staging)
		hfs_punch(swap, 0, table->pages, false);
	if (!slow && swap->file_out >= 0 && ftruncate(swap->file_out, 0))
		error = errno;
	hfs_end(swap);
	return error;
}
