/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the worker's functions share.
 */
#include "worker.h"

#include <errno.h>
#include <string.h>

#include "memory.h"
#include "stores.h"
#include "turn.h"

int hfs_begin(struct hfs *swap)
{
	return atomic_exchange(&swap->working, 1) ? -EBUSY : 0;
}

void hfs_end(struct hfs *swap)
{
	atomic_store(&swap->working, 0);
}

void hfs_reset_cursors(struct hfs *swap)
{
	swap->trim_cursor = swap->out_cursor = swap->in_cursor = 0;
	swap->in_part = 0;
}

bool hfs_page_arrived(struct hfs *swap, uint64_t page, unsigned int states)
{
	uint64_t old;

	if (!(states & 1u << hfs_state(hfs_entry(&swap->table, page))))
		return false;
	if (!hfs_arrived(&swap->table, page, &old))
		return false;
	if (hfs_copy(old) == HFS_COMPRESSED)
		hfs_free_copy(swap, old);
	return states & 1u << hfs_state(old);
}

int hfs_restore(struct hfs *swap, uint64_t page)
{
	uint64_t entry = hfs_entry(&swap->table, page);
	uint8_t *target = hfs_source(swap, page);

	switch (hfs_copy(entry)) {
	case HFS_FILE:
		return hfs_read(swap, hfs_location(entry), 1, target);
	case HFS_COMPRESSED:
		return hfs_decompress(swap, entry, target);
	default:
		memset(target, 0, HFS_PAGE);
		return 0;
	}
}

int hfs_neighbours(struct hfs *swap, const uint64_t *pages, int count)
{
	struct hfs_region *region = hfs_region_of(swap, pages[0]);
	int end = 1;

	while (end < count && pages[end] == pages[0] + end &&
	       pages[end] < region->first + region->pages)
		end++;
	return end;
}

int hfs_punch_pages(struct hfs *swap, const uint64_t *pages, int count)
{
	int first, end, each, error = 0, result;
	uint64_t old;

	for (first = 0; first < count; first = end) {
		end = first + hfs_neighbours(swap, pages + first, count - first);
		result = hfs_punch(swap, pages[first], end - first, !swap->table.copy);
		if (result)
			error = result;
		for (each = first; each < end; each++) {
			if (!result) {
				hfs_punched(&swap->table, pages[each]);
			} else if (!hfs_restore(swap, pages[each])) {
				hfs_restored(&swap->table, pages[each], &old);
				hfs_free_copy(swap, old);
			}
			/* else: its bytes are in the copy alone; hfs_swap_in or a take-over tries again */
		}
	}
	hfs_notify_published(swap);
	return error;
}

void hfs_discard_taken(struct hfs *swap, uint64_t page)
{
	struct hfs_table *table = &swap->table;

	if (!table->copy)
		return;
	if (hfs_state(hfs_entry(table, page)) == HFS_TAKING)
		hfs_quiesce(swap);
	if (hfs_state(hfs_entry(table, page)) == HFS_RESIDENT)
		hfs_punch(swap, page, 1, false);
}

bool hfs_is_zero(const uint8_t *page)
{
	uint64_t first;

	memcpy(&first, page, sizeof(first));
	return !first && !memcmp(page, page + sizeof(first), HFS_PAGE - sizeof(first));
}

bool hfs_all_present(struct hfs *swap)
{
	uint64_t page;
	int state;

	/* A fault that is being served may put a page back that was looked at already. */
	hfs_quiesce(swap);
	for (page = 0; page < swap->table.pages; page++) {
		state = hfs_state(hfs_entry(&swap->table, page));
		if (state != HFS_RESIDENT && state != HFS_ZERO)
			return false;
	}
	return true;
}
