/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The page table: one 64-bit word a page in a memfd, each change one compare-and-swap.
 * hfsched.swap.pages.entries is the same table in Python, and documents each change.
 *
 * A function that returns bool returns whether it changed the entry; false: the page was not in a
 * state for it.  `*old` is the entry before the change.  `page` is below `pages`, unchecked.
 */
#ifndef HFSCHED_SWAP_TABLE_H
#define HFSCHED_SWAP_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HFS_PAGE 4096u /* bytes */
#define HFS_UNIT 128u  /* bytes; the granularity of the compressed tier */
#define HFS_LAYERS 256u /* of a snapshot, at most */

/* As hfsched.swap.pages.entries.State. */
enum hfs_state {
	HFS_RESIDENT,
	HFS_STAGED,
	HFS_WRITING,
	HFS_PUNCHING,
	HFS_FILE,
	HFS_COMPRESSED,
	HFS_ZERO,
	HFS_MOVING,
	HFS_TAKING,
	HFS_STORED,
	HFS_STATES,
};

/* What a fault on a page needs; as hfsched.swap.pages.entries.FaultAction. */
enum hfs_action {
	HFS_CONTINUE,
	HFS_ZERO_PAGE,
	HFS_READ_FILE,
	HFS_DECOMPRESS,
	HFS_COPY_STAGED,
	HFS_WAIT,
	HFS_READ_STORED,
};

/* As hfsched.swap.pages.store.Phase. */
enum hfs_phase { HFS_OFF, HFS_MARKED, HFS_SETTLED };

/* As hfsched.swap.pages.store.EVENTS names them. */
enum hfs_event {
	HFS_EVENT_FAULTS,
	HFS_EVENT_FROM_FILE,
	HFS_EVENT_FROM_STAGING,
	HFS_EVENT_DECOMPRESSED,
	HFS_EVENT_ZEROED,
	HFS_EVENT_MAPPED,
	HFS_EVENT_AROUND,
	HFS_EVENT_REDUNDANT,
	HFS_EVENT_WAITED,
	HFS_EVENT_CANCELLED,
	HFS_EVENT_WRITTEN,
	HFS_EVENT_COMPRESSED,
	HFS_EVENT_TRIMMED_ZERO,
	HFS_EVENT_TRIMMED_CLEAN,
	HFS_EVENT_READ_ERRORS,
	HFS_EVENT_LOST,
	HFS_EVENT_NO_MEMORY,
	HFS_EVENT_DISCARDED,
	HFS_EVENT_FROM_SNAPSHOT,
	HFS_EVENTS,
};

/* The first page of the table's memfd; the entries follow. */
struct hfs_header {
	uint64_t magic;
	uint64_t pages;
	uint32_t copy; /* staging by copy */
	_Atomic uint32_t phase;
	_Atomic uint64_t events[HFS_EVENTS];
	_Atomic uint64_t logged; /* faults in the log so far; the last HFS_LOG of them are there */
	_Atomic uint32_t tracked; /* main tracks dirty pages: what arrives keeps its protection */
	_Atomic uint32_t owing; /* a snapshot is being written: faults keep what it is owed */
	_Atomic uint64_t damaged; /* 1 + the page of a fault whose frame cannot be read; see hfs_set_stored */
};

/* A fault that was served.  The log is behind the entries. */
struct hfs_logged {
	uint64_t when;	 /* ns, of CLOCK_MONOTONIC: its event was read */
	uint64_t page;	 /* number in bits 0 to 47; enum hfs_source in bits 48 to 63 */
	uint64_t took;	 /* ns */
};

#define HFS_LOG 4096u /* faults */
#define HFS_LOGGED_OFFSET offsetof(struct hfs_header, logged)
#define HFS_TRACKED_OFFSET offsetof(struct hfs_header, tracked)
#define HFS_DAMAGED_OFFSET offsetof(struct hfs_header, damaged)
#define HFS_PHASE_OFFSET offsetof(struct hfs_header, phase)

/* Where a page came from; as hfsched.swap.core.faultlog.SOURCES. */
enum hfs_source {
	HFS_SOURCE_MAPPED, /* it was in memory, but not mapped there */
	HFS_SOURCE_STAGING,
	HFS_SOURCE_FILE,
	HFS_SOURCE_TIER,
	HFS_SOURCE_ZERO,
	HFS_SOURCE_SNAPSHOT,
};

struct hfs_table {
	struct hfs_header *header;
	_Atomic uint64_t *entries;
	struct hfs_logged *log;
	uint64_t pages;
	bool copy;
};

struct hfs_counts {
	uint64_t states[HFS_STATES]; /* pages */
	uint64_t stale;		     /* pages in memory that have a copy in the file too */
	uint64_t tier_used;	     /* bytes */
	uint64_t events[HFS_EVENTS];
	int phase;
};

/*
 * Map the table of `pages` pages in `fd`, which may be closed then: HFS_PAGE + 8 * pages bytes and
 * the log, all zero for a new one.  `copy`: staging is by copy.  -EINVAL: it is too short, or was made for
 * other `pages` or another `copy`.  hfs_table_close unmaps it.
 */
int hfs_table_open(struct hfs_table *table, int fd, uint64_t pages, int copy);
void hfs_table_close(struct hfs_table *table);

uint64_t hfs_table_size(uint64_t pages); /* bytes */

uint64_t hfs_entry(struct hfs_table *table, uint64_t page);
/* The thread that serves faults alone. */
void hfs_table_log(struct hfs_table *table, struct hfs_logged fault);
/* For tests alone. */
void hfs_set_entry(struct hfs_table *table, uint64_t page, uint64_t entry);
/*
 * Of a new table: make pages HFS_STORED, by runs of {first page, pages, location of the first}.  -EINVAL: beyond
 * the table.
 */
int hfs_store_runs(struct hfs_table *table, const uint64_t *runs, uint64_t count);
bool hfs_stage_page(struct hfs_table *table, uint64_t page);
bool hfs_move(struct hfs_table *table, uint64_t page);
bool hfs_moved(struct hfs_table *table, uint64_t page);
bool hfs_unstage_page(struct hfs_table *table, uint64_t page);
bool hfs_claim(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_unclaim(struct hfs_table *table, uint64_t page);
/* `copy`: an enum hfs_state; `location`: a slot of the file, or an offset in bytes in the tier. */
bool hfs_publish(struct hfs_table *table, uint64_t page, int copy, uint64_t location,
		 uint32_t length);
bool hfs_drop_zero(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_discard_page(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_drop_clean(struct hfs_table *table, uint64_t page);
bool hfs_punched(struct hfs_table *table, uint64_t page);
bool hfs_restored(struct hfs_table *table, uint64_t page, uint64_t *old);
/* Returns an enum hfs_action. */
int hfs_fault(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_untake(struct hfs_table *table, uint64_t page);
bool hfs_arrived(struct hfs_table *table, uint64_t page, uint64_t *old);
/* Only if the entry is `entry` still. */
bool hfs_arrived_from(struct hfs_table *table, uint64_t page, uint64_t entry);
bool hfs_release_page(struct hfs_table *table, uint64_t page, uint64_t *old);
void hfs_take_over_page(struct hfs_table *table, uint64_t page, bool in_memory, bool settled);
/* Return which states pages have: a bit for each. */
unsigned int hfs_states(struct hfs_table *table);

void hfs_count(struct hfs_table *table, struct hfs_counts *counts);

/* The fields of an entry. */

static inline int hfs_state(uint64_t entry)
{
	return entry & 15;
}

static inline int hfs_copy(uint64_t entry)
{
	return entry >> 4 & 15;
}

static inline uint32_t hfs_length(uint64_t entry)
{
	return entry >> 8 & 0xffff;
}

static inline uint64_t hfs_location(uint64_t entry)
{
	return entry >> 24;
}

static inline uint64_t hfs_file_entry(uint64_t slot)
{
	return HFS_FILE | HFS_FILE << 4 | slot << 24;
}

static inline uint64_t hfs_stored_entry(uint64_t location)
{
	return HFS_STORED | HFS_STORED << 4 | location << 24;
}

/* What HFS_COPY_STAGED has made of an entry. */
static inline uint64_t hfs_taking_entry(uint64_t entry)
{
	return (entry & ~15ull) | HFS_TAKING;
}

static inline void hfs_table_event(struct hfs_table *table, enum hfs_event event, uint64_t number)
{
	atomic_fetch_add_explicit(&table->header->events[event], number, memory_order_relaxed);
}

#endif
