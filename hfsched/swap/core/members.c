/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Members, the processes that map guest memory.
 */
#include "members.h"

#include <errno.h>
#include <string.h>

#include "turn.h"

/* Have the faults that wait in this member occur again. */
static void wake(struct hfs *swap, struct hfs_member *member)
{
	int each;

	for (each = 0; each < swap->region_count; each++)
		if (atomic_load(&member->state) == HFS_ALIVE && member->base[each])
			hfs_uffd_wake(member->uffd, member->base[each],
				      swap->regions[each].pages * HFS_PAGE);
}

static bool off(struct hfs *swap)
{
	return atomic_load(&swap->table.header->phase) == HFS_OFF;
}

int hfs_add_member(struct hfs *swap, int uffd, int pagemap, int dynamic, const uint64_t *base)
{
	struct hfs_member *member;
	int number, error;

	for (number = 0; number < HFS_MEMBERS; number++)
		if (atomic_load(&swap->members[number].state) == HFS_FREE)
			break;
	if (number == HFS_MEMBERS)
		return -EMFILE;
	member = &swap->members[number];
	member->uffd = uffd;
	member->pagemap = pagemap;
	member->dynamic = dynamic;
	memcpy(member->base, base, swap->region_count * sizeof(*base));
	if (!off(swap)) {
		error = hfs_register(swap, number, 1);
		if (error)
			return error;
	}
	atomic_store(&member->state, HFS_ALIVE);
	hfs_kick(swap);
	wake(swap, member); /* a dead monitor may have read the events of faults that wait */
	return number;
}

int hfs_remove_member(struct hfs *swap, int number)
{
	struct hfs_member *member = &swap->members[number];

	if (atomic_load(&member->state) == HFS_ALIVE && !off(swap))
		hfs_register(swap, number, 0);
	atomic_store(&member->state, HFS_DEAD);
	hfs_refresh_poll_set(swap);
	atomic_store(&member->state, HFS_FREE);
	return 0;
}

int hfs_member_state(struct hfs *swap, int number)
{
	struct hfs_member *member = &swap->members[number];

	if (atomic_load(&member->state) == HFS_ALIVE && hfs_uffd_probe(member->uffd) == -ESRCH)
		hfs_mark_dead(swap, member);
	return atomic_load(&member->state);
}

/*
 * Ranges registered before an error stay so: while pages are out, an access must wait.  Unregistered
 * it would read zeros, and put them into the memfd for every other process.
 */
int hfs_register(struct hfs *swap, int number, int on)
{
	struct hfs_member *member = &swap->members[number];
	int each, error = 0;
	uint64_t size;

	for (each = 0; each < swap->region_count && !error; each++) {
		if (!member->base[each])
			continue;
		size = swap->regions[each].pages * HFS_PAGE;
		if (on)
			error = hfs_uffd_register(member->uffd, member->base[each], size,
						  hfs_target_of(swap, member).pagemap >= 0);
		else
			hfs_uffd_unregister(member->uffd, member->base[each], size);
	}
	if (error && hfs_uffd_probe(member->uffd) == -ESRCH) {
		hfs_mark_dead(swap, member);
		return member->dynamic ? 0 : -ESRCH;
	}
	return error;
}

struct hfs_target hfs_target_of(struct hfs *swap, struct hfs_member *member)
{
	return (struct hfs_target){
		.uffd = member->uffd,
		.pagemap = hfs_tracked(swap) ? member->pagemap : -1,
	};
}

void hfs_wake_all(struct hfs *swap)
{
	struct hfs_member *member;

	for (member = swap->members; member < swap->members + HFS_MEMBERS; member++)
		wake(swap, member);
}

void hfs_mark_dead(struct hfs *swap, struct hfs_member *member)
{
	int alive = HFS_ALIVE;

	if (atomic_compare_exchange_strong(&member->state, &alive, HFS_DEAD))
		hfs_event(swap, HFS_EVENT_LOST, 1);
}
