/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The worker: stage, unstage, release.
 */
#define _GNU_SOURCE
#include "members.h"
#include "memory.h"
#include "stores.h"
#include "turn.h"
#include "worker.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void set_phase(struct hfs *swap, enum hfs_phase phase)
{
	atomic_store(&swap->table.header->phase, phase);
}

/* Register every member; after an error none is registered. */
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

/* Copy resident pages [first, end) of one region to the staging memory, and punch them. */
static int64_t move_run(struct hfs *swap, uint64_t first, uint64_t end)
{
	uint64_t size = (end - first) * HFS_PAGE, page;
	int error;

	memcpy(swap->staging + first * HFS_PAGE, hfs_guest_page(swap, first), size);
	for (page = first; page < end; page++)
		hfs_move(&swap->table, page); /* the worker alone changes a RESIDENT page */
	/*
	 * A fault may be in the queue still that nobody waits for any more: the worker brought its page in, while the
	 * thread that serves faults was to run again.  If that has read RESIDENT, it maps the page, or a zero page where
	 * there is none; so there has to be one for as long.
	 */
	hfs_quiesce(swap);
	error = hfs_punch(swap, first, end - first, true);
	if (error)
		memcpy(hfs_guest_page(swap, first), swap->staging + first * HFS_PAGE, size);
	for (page = first; page < end; page++) {
		hfs_moved(&swap->table, page);
		if (error)
			hfs_page_arrived(swap, page, 1u << HFS_STAGED);
	}
	hfs_notify_published(swap);
	return error ? error : (int64_t)(end - first);
}

/* Return the end (exclusive) of the run of RESIDENT pages of one region that begins at `page`. */
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

int64_t hfs_stage(struct hfs *swap, bool pages)
{
	bool first = atomic_load(&swap->table.header->phase) == HFS_OFF;
	struct hfs_bits present;
	int64_t result;

	result = hfs_begin(swap);
	if (result)
		return result;
	result = hfs_bits_open(&present, pages ? swap->table.pages : 0);
	if (result)
		goto end;
	if (first) {
		result = register_all(swap);
		if (result)
			goto end;
	}
	/* A fault being served may have read an entry before its page came back. */
	hfs_quiesce(swap);
	hfs_reset_cursors(swap);
	set_phase(swap, HFS_MARKED);
	if (pages)
		result = hfs_resident(swap, &present);
	if (pages && !result)
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
	/* A fault that began before its page was staged may map it only now; it takes the page back then. */
	hfs_quiesce(swap);
	set_phase(swap, HFS_SETTLED);
	return 0;
}

int hfs_unstage(struct hfs *swap)
{
	uint64_t page;
	int error = hfs_begin(swap);

	if (error)
		return error;
	for (page = 0; page < swap->table.pages && !swap->table.copy; page++)
		hfs_unstage_page(&swap->table, page);
	hfs_reset_cursors(swap);
	if (atomic_load(&swap->table.header->phase) == HFS_MARKED)
		set_phase(swap, HFS_SETTLED);
	hfs_end(swap);
	return 0;
}

int hfs_release(struct hfs *swap, int slow, int final, int *file_error)
{
	struct hfs_table *table = &swap->table;
	int number, error = hfs_begin(swap);
	uint64_t page, old;

	*file_error = 0;
	if (error)
		return error;
	if (!hfs_all_present(swap)) {
		hfs_end(swap);
		return -EBUSY;
	}
	for (number = 0; number < HFS_MEMBERS; number++)
		if (atomic_load(&swap->members[number].state) == HFS_ALIVE &&
		    (final || hfs_target_of(swap, &swap->members[number]).pagemap < 0))
			hfs_register(swap, number, 0);
	for (page = 0; page < table->pages; page++)
		if (hfs_release_page(table, page, &old))
			hfs_free_copy(swap, old);
	set_phase(swap, HFS_OFF);
	hfs_reset_cursors(swap);
	if (swap->tier)
		hfs_punch_tier(swap);
	if (swap->staging)
		hfs_punch(swap, 0, table->pages, false);
	if (!slow && swap->file_out >= 0 && ftruncate(swap->file_out, 0))
		*file_error = errno;
	hfs_end(swap);
	return 0;
}
