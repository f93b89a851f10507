/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Members: processes that map guest memory.  Adding and removing them is in core.h.
 */
#ifndef HFSCHED_SWAP_MEMBERS_H
#define HFSCHED_SWAP_MEMBERS_H

#include "state.h"
#include "uffd.h"

/*
 * Register (`on`) or unregister all ranges of a member.  What was registered before an error stays
 * so.  -ESRCH: it is dead, and static; a dead dynamic one is no error.
 */
int hfs_register(struct hfs *swap, int member, int on);
/* Return where pages arrive in a member's process. */
struct hfs_target hfs_target_of(struct hfs *swap, struct hfs_member *member);
/* Have every fault that waits in any member occur again. */
void hfs_wake_all(struct hfs *swap);
/* Note that a member's process is dead. */
void hfs_mark_dead(struct hfs *swap, struct hfs_member *member);

#endif
