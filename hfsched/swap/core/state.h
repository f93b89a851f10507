/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The object behind core.h, and its parts: types alone, grouped by the thread that uses them.
 */
#ifndef HFSCHED_SWAP_STATE_H
#define HFSCHED_SWAP_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bits.h"
#include "core.h"
#include "frames.h"
#include "table.h"

#define HFS_AROUND_MAX 64 /* pages that may come with a fault */

struct hfs_region {
	int fd;
	uint64_t first; /* page */
	uint64_t pages;
	uint8_t *map; /* no uffd is registered on it; only pages known to be in memory are accessed */
};

/* A process that maps guest memory. */
struct hfs_member {
	atomic_int state; /* enum hfs_member_state */
	int uffd;
	int pagemap;		    /* its page tables, -1: its pages cannot be tracked */
	bool dynamic;		    /* it may die */
	uint64_t base[HFS_REGIONS]; /* 0: it has not mapped that region */
};

/* A read of the file that is under way. */
struct hfs_ahead {
	unsigned long context; /* of Linux's AIO; 0: there is none, */
	bool refused;	       /* and will be none */
	uint64_t slot;
	uint64_t count;	 /* pages; 0: no read is under way */
	uint8_t *buffer; /* HFS_RUN pages */
};

/* A fault that is not served yet. */
struct hfs_fault {
	int member;
	bool waited;
	uint64_t page;
	uint64_t when; /* ns: its event was read */
};

struct hfs {
	struct hfs_table table;
	struct hfs_region regions[HFS_REGIONS];
	int region_count;
	struct hfs_member members[HFS_MEMBERS];

	/* Stores; `slots` and `spans` are cleared by both threads, set by the worker alone. */
	int file_out; /* O_DIRECT where it can be had */
	int file_in;  /* buffered */
	bool direct;
	struct hfs_bits slots;
	int tier_fd;
	uint8_t *tier;
	struct hfs_bits spans;	     /* in HFS_UNITs */
	uint64_t tier_limit;	     /* bytes: longer ones go to the file */
	_Atomic uint32_t tier_freed; /* counts what was freed in it; the worker: */
	uint32_t tier_freed_seen, tier_misses;
	uint64_t tier_room; /* bytes: longer ones have found no room */
	int staging_fd;
	uint8_t *staging;
	struct hfs_frames frames;
	int alarm; /* eventfd, -1: none */

	/* Pages that a snapshot has yet to write; see owed.c. */
	int aside_fd;
	_Atomic uint8_t *owed; /* a byte for each page; NULL: there is no place for them */
	uint8_t *aside_buffer; /* a page; of the serving thread */

	/* The serving thread. */
	pthread_t thread;
	bool running;
	int around;
	int kick; /* eventfd */
	atomic_int stop;
	atomic_int waiting;    /* faults that wait for a page to be published */
	_Atomic uint32_t turn; /* odd: it is serving */
	atomic_int turn_waiters;
	struct hfs_fault *queue; /* HFS_QUEUE of them: a fault allocates nothing */
	int queued;
	uint8_t *serve_buffer; /* HFS_AROUND_MAX pages */
	struct hfs_frame_reader serve_reader;

	/* The worker. */
	atomic_int working;
	uint64_t trim_cursor, out_cursor, in_cursor; /* pages */
	int in_part; /* of hfs_swap_in: 0 staged, 1 compressed, 2 the file, 3 stored and hot, 4 stored */
	unsigned int in_states; /* of all pages when part 0 began */
	bool unreadable; /* a frame that part 3 or 4 has met */
	struct hfs_frame_reader reader;
	uint8_t *buffer; /* HFS_RUN pages */
	struct hfs_ahead ahead;
};

static inline bool hfs_tracked(struct hfs *swap)
{
	return atomic_load(&swap->table.header->tracked);
}

static inline void hfs_event(struct hfs *swap, enum hfs_event event, uint64_t number)
{
	hfs_table_event(&swap->table, event, number);
}

#endif
