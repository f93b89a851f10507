/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Where pages go: slots of the swap file, spans of the compressed tier.  Which are in use follows
 * from the page table alone.  The worker allocates; both threads free.
 */
#ifndef HFSCHED_SWAP_STORES_H
#define HFSCHED_SWAP_STORES_H

#include "state.h"

/*
 * Compress a page into the tier: `*location` is an offset, `*length` a size, in bytes.  -ENOSPC:
 * it does not pay, or there is no room.
 */
int hfs_compress(struct hfs *swap, const uint8_t *page, uint64_t *location, uint32_t *length);
/* Decompress the copy that an entry names.  -EIO: it is no copy. */
int hfs_decompress(struct hfs *swap, uint64_t entry, uint8_t *page);
/* Read slots [slot, slot + count) through the page cache, for a fault.  -EIO: beyond the file. */
int hfs_read(struct hfs *swap, uint64_t slot, uint64_t count, uint8_t *buffer);
/* The same past the page cache: `buffer` is aligned to a page. */
int hfs_read_direct(struct hfs *swap, uint64_t slot, uint64_t count, uint8_t *buffer);
/* Free the slot or the span that an entry's copy has; none is no error. */
void hfs_free_copy(struct hfs *swap, uint64_t entry);
/* Worker: punch unused pages of the tier. */
void hfs_punch_tier(struct hfs *swap);
/* Give the room of unused slots of the file back; not every file system can. */
void hfs_punch_file(struct hfs *swap, uint64_t slot, uint64_t count);

#endif
