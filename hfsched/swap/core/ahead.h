/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Read-ahead of the swap file; the worker alone.
 */
#ifndef HFSCHED_SWAP_AHEAD_H
#define HFSCHED_SWAP_AHEAD_H

#include "state.h"

/* Begin to read slots [slot, slot + count), at most HFS_RUN; does nothing where that is impossible. */
void hfs_ahead_begin(struct hfs *swap, uint64_t slot, uint64_t count);
/*
 * Wait for the read and return the pages, NULL if they were not read.  They are valid until the
 * next call here other than hfs_ahead_begin.
 */
uint8_t *hfs_ahead_take(struct hfs *swap, uint64_t slot, uint64_t count);
/* Discard the read; before the file changes. */
void hfs_ahead_drop(struct hfs *swap);
void hfs_ahead_close(struct hfs *swap);

#endif
