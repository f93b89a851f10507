/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Serving one fault; the serving thread alone.
 */
#ifndef HFSCHED_SWAP_FAULT_H
#define HFSCHED_SWAP_FAULT_H

#include "state.h"

/* HFS_WAITS: the page is being published; HFS_LATER: an error, to be tried again. */
enum hfs_outcome { HFS_SERVED, HFS_WAITS, HFS_LATER };

/* What may come with a fault. */
struct hfs_around {
	int action;			  /* enum hfs_action that the fault itself needed */
	uint64_t low, high;		  /* its window: pages [low, high) of one region */
	uint64_t first, end;		  /* HFS_READ_FILE, HFS_READ_STORED: [first, end) was read, */
	const uint8_t *source;		  /* to here, */
	uint64_t entries[HFS_AROUND_MAX]; /* and the entries from `first` on */
};

/* Set the window of a page. */
void hfs_window(struct hfs *swap, uint64_t page, struct hfs_around *around);
enum hfs_outcome hfs_serve_page(struct hfs *swap, struct hfs_member *member, uint64_t page,
				struct hfs_around *around);
/* Serve neighbours of a page that was just served and that are kept as it was. */
void hfs_serve_around(struct hfs *swap, struct hfs_member *member, uint64_t page,
		      struct hfs_around *around);

#endif
