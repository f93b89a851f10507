/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Pages that a snapshot has yet to write, for the thread that serves faults; the rest is in core.h.
 */
#ifndef HFSCHED_SWAP_OWED_H
#define HFSCHED_SWAP_OWED_H

#include "state.h"

/* Free what hfs_set_aside has had. */
void hfs_free_aside(struct hfs *swap);
/* Return whether pages may be owed to a snapshot. */
bool hfs_owing(struct hfs *swap);
/*
 * Before pages [first, end) are mapped: copy those that are owed aside.  -ENOMEM, -ENOSPC, -EIO: try again,
 * and map none before.
 */
int hfs_keep_owed(struct hfs *swap, uint64_t first, uint64_t end);

#endif
