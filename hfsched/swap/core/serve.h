/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef HFSCHED_SWAP_SERVE_H
#define HFSCHED_SWAP_SERVE_H

#include "core.h"

enum hfs_outcome { HFS_SERVED, HFS_WAITS, HFS_LATER };

struct hfs_around {
	int answer; /* what the fault itself needed */
	uint64_t low, high; /* its window */
	uint64_t first, end; /* READ_FILE: what of it is in the buffer, */
	uint64_t entries[HFS_AROUND_MAX]; /* and the entries from `first` on */
};

/* Where what comes with a page may lie. */
void hfs_window(struct hfs *swap, uint64_t page, struct hfs_around *around);
/* Serve a fault.  HFS_WAITS: the page is being published; HFS_LATER: try it again. */
enum hfs_outcome hfs_serve_page(struct hfs *swap, struct hfs_member *member, uint64_t page,
				struct hfs_around *around);
/* What lies beside a page that was just served, and is kept as it was, comes with it. */
void hfs_serve_around(struct hfs *swap, struct hfs_member *member, uint64_t page,
		      struct hfs_around *around);

#endif
