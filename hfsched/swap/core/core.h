/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Guest memory out of RAM and back: the page table, the thread that serves faults, the worker.
 * Mechanism alone.  Three may be inside at once: the serving thread (serve.c), one worker (the
 * functions that say so), and whoever counts or adds members.  Functions that can fail return
 * -errno.  Pages are numbered through all regions; a page is 4096 bytes.
 *
 * Sources: userfaultfd(2), Linux, Documentation/admin-guide/mm/userfaultfd.rst.
 */
#ifndef HFSCHED_SWAP_CORE_H
#define HFSCHED_SWAP_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define HFS_PAGE 4096u
#define HFS_REGIONS 1024
#define HFS_MEMBERS 64
#define HFS_RUN 512 /* pages in one write or read: 2 MiB */
#define HFS_UNIT 128u /* bytes; what the compressed tier is handed out in */
#define HFS_AROUND_MAX 64

/* As hfsched.swap.entries has them. */
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
	HFS_STATES,
};

enum hfs_answer {
	HFS_CONTINUE,
	HFS_ZERO_PAGE,
	HFS_READ_FILE,
	HFS_DECOMPRESS,
	HFS_COPY_STAGED,
	HFS_WAIT,
};

enum hfs_phase { HFS_OFF, HFS_MARKED, HFS_SETTLED };

/* As hfsched.swap.pages names them. */
enum hfs_event {
	HFS_FAULTS,
	HFS_FROM_FILE,
	HFS_FROM_STAGING,
	HFS_DECOMPRESSED,
	HFS_ZEROED,
	HFS_MAPPED,
	HFS_AROUND,
	HFS_REDUNDANT,
	HFS_WAITED,
	HFS_CANCELLED,
	HFS_WRITTEN,
	HFS_SQUEEZED,
	HFS_TRIMMED_ZERO,
	HFS_TRIMMED_CLEAN,
	HFS_READ_ERRORS,
	HFS_LOST,
	HFS_EVENTS,
};

/* Which part of a piece of work failed. */
enum hfs_place { HFS_IN_FILE, HFS_IN_MEMORY, HFS_IN_PUNCH, HFS_IN_TIER };

/* The first page of the table's memfd; the entries follow. */
struct hfs_header {
	uint64_t magic;
	uint64_t pages;
	uint32_t copy; /* staging by copy */
	_Atomic uint32_t phase;
	_Atomic uint64_t events[HFS_EVENTS];
};

struct hfs_table {
	struct hfs_header *header;
	_Atomic uint64_t *entries;
	uint64_t pages;
	bool copy;
};

struct hfs_region {
	int fd;
	uint64_t first; /* page */
	uint64_t pages;
	uint8_t *map; /* nothing of it is registered; only pages known to be in memory are touched */
};

enum hfs_member_state { HFS_FREE, HFS_ALIVE, HFS_DEAD };

/* A process that maps guest memory. */
struct hfs_member {
	atomic_int state;
	int uffd;
	bool dynamic; /* it may die */
	uint64_t base[HFS_REGIONS]; /* 0: it has not mapped that region */
};

struct hfs_bits {
	_Atomic uint64_t *words;
	uint64_t count;
	uint64_t cursor;
};

struct hfs_progress {
	uint64_t moved;
	uint64_t zero;
	uint64_t clean;
	uint64_t tried; /* in: `moved`, and pages of the file that a fault brought first */
	int done;
	int error; /* errno, or 0 */
	int place;
};

struct hfs_counts {
	uint64_t states[HFS_STATES];
	uint64_t stale;
	uint64_t tier_used; /* bytes */
	uint64_t events[HFS_EVENTS];
	int phase;
};

/* A read of the file that is under way. */
struct hfs_ahead {
	unsigned long context; /* of Linux's AIO; 0: there is none, */
	bool refused;	       /* and will be none */
	uint64_t slot;
	uint64_t count; /* 0: nothing is read */
	uint8_t *buffer; /* HFS_RUN pages */
};

struct hfs_fault {
	int member;
	bool waited;
	uint64_t page;
};

struct hfs {
	struct hfs_table table;
	struct hfs_region regions[HFS_REGIONS];
	int region_count;
	struct hfs_member members[HFS_MEMBERS];

	int file_out; /* O_DIRECT where it can be had */
	int file_in;  /* buffered */
	bool direct;
	struct hfs_bits slots;
	int tier_fd;
	uint8_t *tier;
	struct hfs_bits spans; /* in HFS_UNITs; cleared by both threads, set by the worker alone */
	uint64_t tier_limit;   /* bytes: longer ones go to the file */
	_Atomic uint32_t tier_freed; /* goes up when something in it is let go; the worker: */
	uint32_t tier_freed_seen, tier_misses;
	uint64_t tier_room; /* bytes: longer ones have found no room */
	int staging_fd;
	uint8_t *staging;

	/* The serving thread. */
	pthread_t thread;
	bool running;
	int around;
	int kick;		/* eventfd */
	atomic_int stop;
	atomic_int waiting;	/* faults that wait for a page to be published */
	_Atomic uint32_t turn;	/* odd: at work */
	atomic_int turn_awaited;
	struct hfs_fault *queue;
	int queued, queue_size;
	uint8_t *serve_buffer;

	/* The worker. */
	atomic_int working;
	uint64_t trim_cursor, out_cursor, in_cursor;
	int in_part;
	uint8_t *buffer; /* HFS_RUN pages */
	struct hfs_ahead ahead;
};

/* table.c */
int hfs_table_open(struct hfs_table *table, int fd, uint64_t pages, int copy);
void hfs_table_close(struct hfs_table *table);
uint64_t hfs_entry(struct hfs_table *table, uint64_t page);
void hfs_set_entry(struct hfs_table *table, uint64_t page, uint64_t entry);
bool hfs_stage_page(struct hfs_table *table, uint64_t page);
bool hfs_move(struct hfs_table *table, uint64_t page);
bool hfs_moved(struct hfs_table *table, uint64_t page);
bool hfs_unstage_page(struct hfs_table *table, uint64_t page);
bool hfs_claim(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_unclaim(struct hfs_table *table, uint64_t page);
bool hfs_publish(struct hfs_table *table, uint64_t page, int copy, uint64_t location,
		 uint32_t length);
bool hfs_drop_zero(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_drop_clean(struct hfs_table *table, uint64_t page);
bool hfs_punched(struct hfs_table *table, uint64_t page);
bool hfs_restored(struct hfs_table *table, uint64_t page, uint64_t *old);
int hfs_fault(struct hfs_table *table, uint64_t page, uint64_t *old); /* old: the entry before */
bool hfs_untake(struct hfs_table *table, uint64_t page);
bool hfs_arrived(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_arrived_from(struct hfs_table *table, uint64_t page, uint64_t entry); /* only if it is so */
bool hfs_release_page(struct hfs_table *table, uint64_t page, uint64_t *old);
void hfs_take_over_page(struct hfs_table *table, uint64_t page, bool in_memory, bool settled);
void hfs_count(struct hfs_table *table, struct hfs_counts *counts);

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

/* What HFS_COPY_STAGED has made of an entry. */
static inline uint64_t hfs_taking_entry(uint64_t entry)
{
	return (entry & ~15ull) | HFS_TAKING;
}

static inline void hfs_event(struct hfs *swap, enum hfs_event event, uint64_t number)
{
	atomic_fetch_add_explicit(&swap->table.header->events[event], number,
				  memory_order_relaxed);
}

/* uffd.c: what fails with partial progress is gone on with until it is done or cannot be. */
int hfs_uffd_open(int user_mode_only);
int hfs_uffd_register(int uffd, uint64_t address, uint64_t size);
int hfs_uffd_unregister(int uffd, uint64_t address, uint64_t size);
int hfs_uffd_probe(int uffd); /* -ESRCH: its process is dead */
int hfs_uffd_wake(int uffd, uint64_t address, uint64_t size);
int hfs_uffd_continue(int uffd, uint64_t address, uint64_t size); /* one page: -EEXIST, -EFAULT */
int hfs_uffd_zero(int uffd, uint64_t address);
int hfs_uffd_copy(int uffd, uint64_t address, const void *source, uint64_t size,
		  uint64_t *done); /* bytes that are there now */
int hfs_zap(uint64_t address, uint64_t size);

/* stores.c */
int hfs_bits_open(struct hfs_bits *bits, uint64_t count);
void hfs_bits_close(struct hfs_bits *bits);
uint64_t hfs_bits_take(struct hfs_bits *bits, uint64_t least, uint64_t most, uint64_t *start);
void hfs_bits_set(struct hfs_bits *bits, uint64_t start, uint64_t count);
void hfs_bits_clear(struct hfs_bits *bits, uint64_t start, uint64_t count);
uint64_t hfs_bits_used(struct hfs_bits *bits);
const char *hfs_tier_problem(void); /* NULL: there is a library for it */
int hfs_squeeze(struct hfs *swap, const uint8_t *page, uint64_t *location, uint32_t *length);
int hfs_expand(struct hfs *swap, uint64_t entry, uint8_t *page);
int hfs_read(struct hfs *swap, uint64_t slot, uint64_t count, uint8_t *buffer);
int hfs_read_direct(struct hfs *swap, uint64_t slot, uint64_t count, uint8_t *buffer);
void hfs_let_go(struct hfs *swap, uint64_t entry); /* free what an entry's copy holds */
void hfs_give_back(struct hfs *swap);		   /* worker: unused pages of the tier */
int hfs_shrink(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);

/* ahead.c; the worker alone */
void hfs_ahead_begin(struct hfs *swap, uint64_t slot, uint64_t count);
uint8_t *hfs_ahead_take(struct hfs *swap, uint64_t slot, uint64_t count); /* NULL: not read */
void hfs_ahead_drop(struct hfs *swap); /* before the file changes */
void hfs_ahead_close(struct hfs *swap);

/* swap.c: the whole */
struct hfs *hfs_new(int table_fd, uint64_t pages, int copy, int around);
int hfs_add_region(struct hfs *swap, int fd, uint64_t pages);
int hfs_set_file(struct hfs *swap, int file_out, int file_in);
int hfs_set_tier(struct hfs *swap, int fd, uint64_t size, uint64_t limit);
int hfs_set_staging(struct hfs *swap, int fd);
int64_t hfs_in_memory(struct hfs *swap);
int hfs_phase_now(struct hfs *swap);
void hfs_free(struct hfs *swap);
struct hfs_region *hfs_region_of(struct hfs *swap, uint64_t page);
uint8_t *hfs_source(struct hfs *swap, uint64_t page); /* where a staged page is */
int hfs_resident(struct hfs *swap, struct hfs_bits *bits);
int hfs_punch(struct hfs *swap, uint64_t page, uint64_t count, bool guest);

/* members.c */
int hfs_add_member(struct hfs *swap, int uffd, int dynamic, const uint64_t *base);
int hfs_remove_member(struct hfs *swap, int member); /* its descriptor may be closed after */
int hfs_member_state(struct hfs *swap, int member);
int hfs_register(struct hfs *swap, int member, int on);
void hfs_wake_all(struct hfs *swap);
void hfs_lost(struct hfs *swap, struct hfs_member *member);

/* serve.c */
int hfs_start(struct hfs *swap);
void hfs_stop(struct hfs *swap);
void hfs_kick(struct hfs *swap);
void hfs_quiesce(struct hfs *swap); /* until every fault begun before has been dealt with */
void hfs_poll_anew(struct hfs *swap); /* until the members that are there now are polled, alone */
void hfs_let_faults_go_first(struct hfs *swap);
void hfs_published(struct hfs *swap); /* whoever waited for pages may look again */

/* takeover.c, enable.c, trim.c, out.c, in.c: one thread at a time, else -EBUSY */
int64_t hfs_stage(struct hfs *swap);
int hfs_zapped(struct hfs *swap);
int hfs_unstage(struct hfs *swap);
int hfs_take_over(struct hfs *swap);
int hfs_trim(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
int hfs_swap_out(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
int hfs_swap_in(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
int hfs_release(struct hfs *swap, int slow);

#endif
