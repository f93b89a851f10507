/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the worker's functions share.
 */
#ifndef HFSCHED_SWAP_WORKER_H
#define HFSCHED_SWAP_WORKER_H

#include "state.h"

/* Begin a piece of work.  -EBUSY: another one is under way.  hfs_end ends it. */
int hfs_begin(struct hfs *swap);
void hfs_end(struct hfs *swap);
/* Let trim, out and in begin with the first page again. */
void hfs_reset_cursors(struct hfs *swap);

/* A page is in memory: if its state is one of `states` (a mask) it becomes RESIDENT. */
bool hfs_page_arrived(struct hfs *swap, uint64_t page, unsigned int states);
/* Write a PUNCHING page's bytes back to where they were, since it could not be punched. */
int hfs_restore(struct hfs *swap, uint64_t page);
/* Punch PUNCHING pages, in ascending order, and publish them; the last error. */
int hfs_punch_pages(struct hfs *swap, const uint64_t *pages, int count);
/*
 * Copy staging: punch the staging memory of a page that a fault has taken back and punched before,
 * which reading it has allocated again.
 */
void hfs_discard_taken(struct hfs *swap, uint64_t page);
/* Return how many of `pages` follow each other from the first on, in one region. */
int hfs_neighbours(struct hfs *swap, const uint64_t *pages, int count);

bool hfs_is_zero(const uint8_t *page);
/* Return whether every page is RESIDENT or ZERO; waits for faults that are being served. */
bool hfs_all_present(struct hfs *swap);

#endif
