/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * How other threads wait for the serving thread, and wake it.  It serves in turns: `turn` is odd
 * within one.  hfs_quiesce is in core.h.
 */
#ifndef HFSCHED_SWAP_TURN_H
#define HFSCHED_SWAP_TURN_H

#include "state.h"

/* The serving thread alone. */
void hfs_begin_turn(struct hfs *swap);
void hfs_end_turn(struct hfs *swap);

/* Tell main, again and again, that the frame of a fault on `page` cannot be read: see hfs_set_stored. */
void hfs_alarm(struct hfs *swap, uint64_t page);

/* Have it take a turn. */
void hfs_kick(struct hfs *swap);
/* Wait until it polls exactly the members that are alive now. */
void hfs_refresh_poll_set(struct hfs *swap);
/* Worker: let faults that are being served end first, for at most 2 ms. */
void hfs_yield_to_faults(struct hfs *swap);
/* Worker: pages were published; faults that wait for that are looked at again. */
void hfs_notify_published(struct hfs *swap);

#endif
