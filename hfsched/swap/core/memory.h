/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Guest memory and staging memory, by page number.
 */
#ifndef HFSCHED_SWAP_MEMORY_H
#define HFSCHED_SWAP_MEMORY_H

#include "state.h"

/* Return the region of a page, NULL where there is none. */
struct hfs_region *hfs_region_of(struct hfs *swap, uint64_t page);
/* Return where the worker has a page of guest memory mapped. */
uint8_t *hfs_guest_page(struct hfs *swap, uint64_t page);
/* Return where a staged page is: in guest memory, or in the staging memory. */
uint8_t *hfs_source(struct hfs *swap, uint64_t page);
/* Set the bits of pages that the regions' memfds hold; a bit for each page of the table. */
int hfs_resident(struct hfs *swap, struct hfs_bits *bits);
/*
 * Punch [page, page + count): of guest memory, within one region, or of the staging memory.
 * -EBUSY: a page of guest memory is still there (part of a huge page), and has lost its bytes.
 */
int hfs_punch(struct hfs *swap, uint64_t page, uint64_t count, bool guest);

#endif
