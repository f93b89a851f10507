/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef HFSCHED_SWAP_WORKER_H
#define HFSCHED_SWAP_WORKER_H

#include "core.h"

#include <errno.h>

/* One piece of work at a time. */
static inline int hfs_begin(struct hfs *swap)
{
	return atomic_exchange(&swap->working, 1) ? -EBUSY : 0;
}

static inline void hfs_end(struct hfs *swap)
{
	atomic_store(&swap->working, 0);
}

static inline bool hfs_bit(struct hfs_bits *bits, uint64_t bit)
{
	return atomic_load(&bits->words[bit / 64]) >> bit % 64 & 1;
}

/* A page in one of these states is in memory after all: RESIDENT. */
bool hfs_page_arrived(struct hfs *swap, uint64_t page, unsigned int states);
/* Write a PUNCHING page's bytes back to where they were, since they could not be given back. */
int hfs_restore(struct hfs *swap, uint64_t page);
/* Give back the memory of PUNCHING pages (in ascending order), and publish them. */
int hfs_punch_pages(struct hfs *swap, const uint64_t *pages, int count);

/*
 * With copy staging: give back what reading a page's staging memory has made of it, if a fault had
 * taken the page, and given it back, before.
 */
void hfs_forget_taken(struct hfs *swap, uint64_t page);

bool hfs_is_zero(const uint8_t *page);
/* Whether nothing is anywhere else; pages that a fault is taking are waited for. */
bool hfs_all_are_in(struct hfs *swap);
/* Where the worker has a page of guest memory mapped. */
uint8_t *hfs_guest_page(struct hfs *swap, uint64_t page);
/* Let trim, out and in begin with the first page again. */
void hfs_reset_cursors(struct hfs *swap);

#endif
