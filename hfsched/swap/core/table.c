/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The page table.  A test compares it with hfsched.swap.pages.entries.
 */
#define _GNU_SOURCE
#include "table.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAGIC 0x3170617773736668u /* "hfsswap1" */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#define STATE 15ull
#define COPY (15ull << 4)

uint64_t hfs_table_size(uint64_t pages)
{
	return HFS_PAGE + pages * sizeof(uint64_t) + HFS_LOG * sizeof(struct hfs_logged);
}

int hfs_table_open(struct hfs_table *table, int fd, uint64_t pages, int copy)
{
	uint64_t size = hfs_table_size(pages);
	struct stat status;
	void *map;

	memset(table, 0, sizeof(*table));
	if (fstat(fd, &status))
		return -errno;
	if ((uint64_t)status.st_size < size)
		return -EINVAL;
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	table->header = map;
	table->entries = (void *)((uint8_t *)map + HFS_PAGE);
	table->log = (void *)(table->entries + pages);
	table->pages = pages;
	table->copy = copy;
	if (!table->header->magic) {
		table->header->pages = pages;
		table->header->copy = copy;
		table->header->magic = MAGIC;
	}
	if (table->header->magic != MAGIC || table->header->pages != pages ||
	    table->header->copy != (uint32_t)copy) {
		hfs_table_close(table);
		return -EINVAL;
	}
	return 0;
}

void hfs_table_close(struct hfs_table *table)
{
	if (table->header)
		munmap(table->header, hfs_table_size(table->pages));
	table->header = NULL;
}

void hfs_table_log(struct hfs_table *table, struct hfs_logged fault)
{
	uint64_t number = atomic_load_explicit(&table->header->logged, memory_order_relaxed);

	table->log[number % HFS_LOG] = fault;
	atomic_store_explicit(&table->header->logged, number + 1, memory_order_release);
}

uint64_t hfs_entry(struct hfs_table *table, uint64_t page)
{
	return atomic_load(&table->entries[page]);
}

void hfs_set_entry(struct hfs_table *table, uint64_t page, uint64_t entry)
{
	atomic_store(&table->entries[page], entry);
}

/* Bring in the part of the page table that is about to be written, at once where the kernel can. */
static void populate(struct hfs_table *table, uint64_t first, uint64_t count)
{
	uint8_t *start = (uint8_t *)table->entries + first * sizeof(uint64_t) / HFS_PAGE * HFS_PAGE;

	madvise(start, (uint8_t *)&table->entries[first + count] - start, MADV_POPULATE_WRITE);
}

int hfs_store_runs(struct hfs_table *table, const uint64_t *runs, uint64_t count)
{
	uint64_t each, page;

	for (; count; count--, runs += 3) {
		if (runs[0] > table->pages || runs[1] > table->pages - runs[0])
			return -EINVAL;
		if (runs[1] > HFS_PAGE)
			populate(table, runs[0], runs[1]);
		for (each = 0, page = runs[0]; each < runs[1]; each++, page++)
			atomic_store_explicit(&table->entries[page],
					      hfs_stored_entry(runs[2] + each),
					      memory_order_relaxed); /* nobody else has it yet */
	}
	return 0;
}

/* entry -> (entry & keep) | add, if its state is one of `before`. */
static bool change(struct hfs_table *table, uint64_t page, unsigned int before, uint64_t keep,
		   uint64_t add, uint64_t *old)
{
	uint64_t entry = hfs_entry(table, page);

	do {
		if (!(before & 1u << hfs_state(entry)))
			return false;
	} while (!atomic_compare_exchange_weak(&table->entries[page], &entry,
					       (entry & keep) | add));
	if (old)
		*old = entry;
	return true;
}

#define ONE(state) (1u << (state))

bool hfs_stage_page(struct hfs_table *table, uint64_t page)
{
	return change(table, page, ONE(HFS_RESIDENT), ~STATE, HFS_STAGED, NULL);
}

bool hfs_move(struct hfs_table *table, uint64_t page)
{
	return change(table, page, ONE(HFS_RESIDENT), ~STATE, HFS_MOVING, NULL);
}

bool hfs_moved(struct hfs_table *table, uint64_t page)
{
	return change(table, page, ONE(HFS_MOVING), ~STATE, HFS_STAGED, NULL);
}

bool hfs_unstage_page(struct hfs_table *table, uint64_t page)
{
	return change(table, page, ONE(HFS_STAGED), ~STATE, HFS_RESIDENT, NULL);
}

bool hfs_claim(struct hfs_table *table, uint64_t page, uint64_t *old)
{
	return change(table, page, ONE(HFS_STAGED), 0, HFS_WRITING, old);
}

bool hfs_unclaim(struct hfs_table *table, uint64_t page)
{
	return change(table, page, ONE(HFS_WRITING), 0, HFS_STAGED, NULL);
}

bool hfs_publish(struct hfs_table *table, uint64_t page, int copy, uint64_t location,
		 uint32_t length)
{
	uint64_t after = HFS_PUNCHING | (uint64_t)copy << 4 | (uint64_t)length << 8 |
			 location << 24;

	return change(table, page, ONE(HFS_WRITING), 0, after, NULL);
}

bool hfs_drop_zero(struct hfs_table *table, uint64_t page, uint64_t *old)
{
	return change(table, page, ONE(HFS_STAGED), 0, HFS_PUNCHING | HFS_ZERO << 4, old);
}

bool hfs_discard_page(struct hfs_table *table, uint64_t page, uint64_t *old)
{
	return change(table, page,
		      ONE(HFS_RESIDENT) | ONE(HFS_STAGED) | ONE(HFS_FILE) | ONE(HFS_COMPRESSED) |
			      ONE(HFS_STORED),
		      0,
		      HFS_PUNCHING | HFS_ZERO << 4, old);
}

bool hfs_drop_clean(struct hfs_table *table, uint64_t page)
{
	uint64_t entry = hfs_entry(table, page);

	if (hfs_state(entry) != HFS_STAGED || hfs_copy(entry) != HFS_FILE)
		return false;
	return atomic_compare_exchange_strong(&table->entries[page], &entry,
					      (entry & ~STATE) | HFS_PUNCHING);
}

/* The worker alone changes a PUNCHING page. */
bool hfs_punched(struct hfs_table *table, uint64_t page)
{
	uint64_t entry = hfs_entry(table, page);

	return change(table, page, ONE(HFS_PUNCHING), ~STATE, hfs_copy(entry), NULL);
}

bool hfs_restored(struct hfs_table *table, uint64_t page, uint64_t *old)
{
	return change(table, page, ONE(HFS_PUNCHING), 0, HFS_STAGED, old);
}

int hfs_fault(struct hfs_table *table, uint64_t page, uint64_t *old)
{
	unsigned int staged = ONE(HFS_STAGED) | ONE(HFS_WRITING);

	for (;;) {
		*old = hfs_entry(table, page);
		switch (hfs_state(*old)) {
		case HFS_RESIDENT:
			return HFS_CONTINUE;
		case HFS_FILE:
			return HFS_READ_FILE;
		case HFS_COMPRESSED:
			return HFS_DECOMPRESS;
		case HFS_ZERO:
			return HFS_ZERO_PAGE;
		case HFS_STORED:
			return HFS_READ_STORED;
		case HFS_STAGED:
		case HFS_WRITING:
			if (change(table, page, staged, ~STATE,
				   table->copy ? HFS_TAKING : HFS_RESIDENT, old))
				return table->copy ? HFS_COPY_STAGED : HFS_CONTINUE;
			break;
		default:
			return HFS_WAIT;
		}
	}
}

bool hfs_untake(struct hfs_table *table, uint64_t page)
{
	return change(table, page, ONE(HFS_TAKING), ~STATE, HFS_STAGED, NULL);
}

bool hfs_arrived(struct hfs_table *table, uint64_t page, uint64_t *old)
{
	uint64_t entry = hfs_entry(table, page), after;

	do {
		if (hfs_state(entry) == HFS_PUNCHING || hfs_state(entry) == HFS_MOVING)
			return false;
		after = hfs_copy(entry) == HFS_FILE ? entry & ~STATE : HFS_RESIDENT;
	} while (!atomic_compare_exchange_weak(&table->entries[page], &entry, after));
	*old = entry;
	return true;
}

bool hfs_arrived_from(struct hfs_table *table, uint64_t page, uint64_t entry)
{
	uint64_t after = hfs_copy(entry) == HFS_FILE ? entry & ~STATE : HFS_RESIDENT;

	return atomic_compare_exchange_strong(&table->entries[page], &entry, after);
}

bool hfs_release_page(struct hfs_table *table, uint64_t page, uint64_t *old)
{
	return change(table, page, ONE(HFS_RESIDENT) | ONE(HFS_ZERO), 0, 0, old);
}

void hfs_take_over_page(struct hfs_table *table, uint64_t page, bool in_memory, bool settled)
{
	uint64_t old;

	if (!hfs_punched(table, page) && !hfs_moved(table, page) && !hfs_unclaim(table, page))
		hfs_untake(table, page);
	if (!table->copy && hfs_state(hfs_entry(table, page)) == HFS_STAGED) {
		if (!settled)
			hfs_unstage_page(table, page);
	} else if (in_memory) {
		hfs_arrived(table, page, &old);
	}
}

unsigned int hfs_states(struct hfs_table *table)
{
	unsigned int states = 0;
	uint64_t page;

	for (page = 0; page < table->pages; page++)
		states |= ONE(hfs_state(
			atomic_load_explicit(&table->entries[page], memory_order_relaxed)));
	return states;
}

void hfs_count(struct hfs_table *table, struct hfs_counts *counts)
{
	uint64_t page, entry;
	int event;

	memset(counts, 0, sizeof(*counts));
	for (page = 0; page < table->pages; page++) {
		entry = atomic_load_explicit(&table->entries[page], memory_order_relaxed);
		if (hfs_state(entry) < HFS_STATES)
			counts->states[hfs_state(entry)]++;
		if (hfs_copy(entry) == HFS_FILE && hfs_state(entry) != HFS_FILE &&
		    hfs_state(entry) != HFS_PUNCHING)
			counts->stale++;
		if (hfs_copy(entry) == HFS_COMPRESSED)
			counts->tier_used += (hfs_length(entry) + HFS_UNIT - 1) / HFS_UNIT * HFS_UNIT;
	}
	for (event = 0; event < HFS_EVENTS; event++)
		counts->events[event] = atomic_load(&table->header->events[event]);
	counts->phase = atomic_load(&table->header->phase);
}
