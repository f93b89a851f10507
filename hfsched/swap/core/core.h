/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The C core of swap: guest memory out of RAM and back.  Mechanism alone; policy is in Python.
 * This header is the whole interface; `struct hfs` is opaque.
 *
 * Conventions
 * - Pages: 4096 bytes, numbered from 0 through all regions in the order of hfs_add_region.  A range
 *   is [first, end): `first` inclusive, `end` exclusive.  Sizes are in bytes where they are named
 *   `size`, `length` or `limit of the tier`; `pages`, `count`, `limit` and `moved` are pages.
 * - Errors: a function that can fail returns 0 (or a count) or a negative errno; each comment names
 *   those with a meaning of their own.  Any system call may add others.
 * - Ownership: file descriptors stay the caller's; they must be open until hfs_free, a member's
 *   until hfs_remove_member.  hfs_new creates the object, hfs_free frees it and all its memory.
 * - Threads: at the same time may run the serving thread (hfs_start), one worker (the functions
 *   under "Worker"; a second one gets -EBUSY), and one caller of the functions under "Members" and
 *   "Queries".  Nothing else may run beside hfs_free.
 *
 * Layers.  A file calls functions of files on lines below its own alone; a test checks that.
 *
 *     swap                                         the object: made, configured, freed
 *     serve                                        the serving thread
 *     fault enable trim out in discard takeover    one fault; the worker's functions
 *     worker                                       what the worker's functions share
 *     members                                      processes that map guest memory
 *     owed                                         pages that a snapshot has yet to write
 *     peek                                         pages as they are, wherever they are
 *     memory stores ahead turn frames              guest memory; file and tier; read-ahead; turns; snapshots
 *     table uffd bits compression                  page table; userfaultfd requests; bitmaps; compression
 *
 * Sources: userfaultfd(2), Linux, Documentation/admin-guide/mm/userfaultfd.rst.
 */
#ifndef HFSCHED_SWAP_CORE_H
#define HFSCHED_SWAP_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "table.h"

#define HFS_REGIONS 1024 /* at most, in one object */
#define HFS_MEMBERS 64	 /* at most, at one time */
#define HFS_QUEUE 4096	 /* faults that are read and not served yet, at most */
#define HFS_RUN 512	 /* pages in one write or read: 2 MiB */

/* HFS_FREE: no such member; HFS_DEAD: its process has ended, and it waits to be removed. */
enum hfs_member_state { HFS_FREE, HFS_ALIVE, HFS_DEAD };

/* Which part of a piece of work failed. */
enum hfs_place { HFS_IN_FILE, HFS_IN_MEMORY, HFS_IN_PUNCH, HFS_IN_TIER, HFS_IN_SNAPSHOT };

/* What one call of a worker's function did. */
struct hfs_progress {
	uint64_t moved; /* pages */
	uint64_t zero;	/* hfs_trim: those of `moved` that were zero, */
	uint64_t clean; /* and those that equal their copy in the file */
	uint64_t tried; /* hfs_swap_in: `moved`, and pages that a fault brought first or that cannot be read */
	int done;	/* nothing is left of this work */
	int error;	/* a positive errno, or 0; the pages concerned are where they were */
	int place;	/* enum hfs_place; where `error` is from */
	int fills;	/* hfs_swap_in: what comes next is in a snapshot's layers, and nobody waits for it */
};

struct hfs;

/* The object. */

/*
 * Create one over the page table in `table_fd` (see hfs_table_open; `copy` is as there).  `around`:
 * pages, a power of two, that may come with a fault; it is cut to 1..64.  NULL with errno set:
 * EINVAL for a table of another size or kind.
 */
struct hfs *hfs_new(int table_fd, uint64_t pages, int copy, int around);
/* Stop the serving thread and free everything; registered ranges stay so, and faults wait. */
void hfs_free(struct hfs *swap);

/* Configuration; before hfs_start and before any work. */

/* Append `pages` pages of a memfd, from its start.  -E2BIG: HFS_REGIONS; -EINVAL: beyond the table. */
int hfs_add_region(struct hfs *swap, int fd, uint64_t pages);
/* The same in an object that only reads (hfs_peek, hfs_take_owed): it does not map the memory. */
int hfs_add_region_to_read(struct hfs *swap, int fd, uint64_t pages);
/* The swap file: opened to write (O_DIRECT where it can be had) and to read (buffered). */
int hfs_set_file(struct hfs *swap, int file_out, int file_in);
/*
 * The compressed tier: `size` bytes of a memfd, cut to whole pages.  A page that is longer than
 * `limit` bytes when compressed goes to the file.  -ENOSYS: there is no liblz4.
 */
int hfs_set_tier(struct hfs *swap, int fd, uint64_t size, uint64_t limit);
/* The staging memory, for copy staging: a memfd as large as all regions. */
int hfs_set_staging(struct hfs *swap, int fd);
/*
 * Pages that are in the layers of a snapshot: `fd` is the memfd of frames.h, `layers` the layers' files.
 * Where a fault cannot be served, since a frame cannot be read or is damaged, the page's number plus 1 is put in
 * hfs_header.damaged, `alarm` (an eventfd) is written to, and the fault is tried again every 20 ms; hfs_discard
 * of the page ends that.  -EINVAL: a memfd that main cannot have made.
 */
int hfs_set_stored(struct hfs *swap, int fd, const int *layers, int count, int alarm);
/* Where pages are kept that a snapshot has yet to write: a memfd of hfs_aside_size(pages) bytes, else -EINVAL. */
int hfs_set_aside(struct hfs *swap, int fd);
uint64_t hfs_aside_size(uint64_t pages);

/*
 * After the configuration: keep the buffers, bitmaps and the page table in memory from when they
 * are touched, so that serving a fault never waits for memory that it is to free.  -ENOMEM, -EPERM:
 * RLIMIT_MEMLOCK does not allow all of it; what it allows is locked.
 */
int hfs_lock(struct hfs *swap);

/* Members. */

/*
 * Serve the faults of a process: its userfaultfd, and for each region the address where it has it
 * mapped, 0 for none.  `pagemap` has its page tables if main may track dirty pages there, else -1: the
 * userfaultfd has UFFD_FEATURE_WP_ASYNC then, and while main does (hfs_header.tracked), a page that
 * arrives stays write-protected if it was.  `dynamic`: it may die.  While the phase is not HFS_OFF its ranges are
 * registered at once; all that wait in its faults are woken.  Returns its number, in
 * [0, HFS_MEMBERS).  -EMFILE: there are HFS_MEMBERS.
 */
int hfs_add_member(struct hfs *swap, int uffd, int pagemap, int dynamic, const uint64_t *base);
/* Stop serving it.  After this its descriptor is polled no more and may be closed. */
int hfs_remove_member(struct hfs *swap, int member);
/* Return an enum hfs_member_state; probes whether the process lives. */
int hfs_member_state(struct hfs *swap, int member);

/* The serving thread. */

/* Start it and wake all faults that wait.  -EBUSY: it runs already. */
int hfs_start(struct hfs *swap);
void hfs_stop(struct hfs *swap);
/* Wait until each fault whose service had begun before this call has been served and counted. */
void hfs_quiesce(struct hfs *swap);

/* Worker: one of these at a time, else -EBUSY. */

/*
 * Register every member if the phase is HFS_OFF, and stage what is in memory, unless there are to be no `pages`; the
 * guests must be suspended.  Returns the pages staged.  The phase is HFS_MARKED afterwards.  -EBUSY also for
 * memory in huge pages that could not be freed (copy staging).
 */
int64_t hfs_stage(struct hfs *swap, bool pages);
/* Note that no member has a staged page mapped: the phase is HFS_SETTLED.  -EINVAL: it is HFS_OFF. */
int hfs_zapped(struct hfs *swap);
/* Minor staging: staged pages become resident.  Copy staging: hfs_swap_in does that. */
int hfs_unstage(struct hfs *swap);
/*
 * Before hfs_start: complete what a dead monitor left half done in the page table, and rebuild the
 * allocators from it.  -EINVAL: the table is one that no monitor can have left; nothing is done.
 */
int hfs_take_over(struct hfs *swap);
/* Drop up to `limit` staged pages that are zero or equal to their copy.  -EINVAL: not HFS_SETTLED. */
int hfs_trim(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
/* Move up to `limit` staged pages to the tier or the file, lowest first.  -EINVAL: not HFS_SETTLED. */
int hfs_swap_out(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
/*
 * Bring up to `limit` pages in: staged ones, then compressed ones, then those of the file, then those of a
 * snapshot.  Frames that cannot be read are passed over, and are an error in the end.
 */
int hfs_swap_in(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
/*
 * Make the contents of `count` pages from `first` zero, and give their memory and copies back; while
 * guests run.  `moved`: pages that became zero, `done`: all of them are.  -EINVAL: beyond the table.
 */
int hfs_discard(struct hfs *swap, uint64_t first, uint64_t count, struct hfs_progress *progress);
/*
 * Unregister every member and free the stores; the phase is HFS_OFF.  -EBUSY: pages are still out.
 * Members whose dirty pages are tracked stay registered, since their protection would be lost, and
 * their faults are served; unless it is `final`: nobody will serve them.
 * The file is truncated unless `slow`; `*file_error` is the positive errno of that, or 0, and does
 * not make the call fail.
 */
int hfs_release(struct hfs *swap, int slow, int final, int *file_error);
/* Cut up to `limit` unused slots from the end of the file. */
int hfs_shrink(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);

/* Queries; at any time. */

void hfs_counts(struct hfs *swap, struct hfs_counts *counts);
int hfs_phase_now(struct hfs *swap); /* enum hfs_phase */
uint64_t hfs_faults(struct hfs *swap); /* so far */
int64_t hfs_in_memory(struct hfs *swap); /* pages that the regions' memfds hold */

/*
 * Read pages as they are, wherever they are: from `first` on, of one kind, at most `count`, and at most
 * HFS_RUN.  Returns how many, at least one; `*zero`: they are zero, and `buffer`, which has room for `count`
 * pages, was not written.  Nothing is brought in and no entry changes.  It is right while no page leaves memory,
 * that is while no worker runs; faults may occur, and another monitor may take over meanwhile: an entry that
 * has changed is looked at again.  For one thread of an object.  -EAGAIN: the first page is on its way;
 * -EIO: its copy is none; other errors are of the file or of memory.
 */
int64_t hfs_peek(struct hfs *swap, uint64_t first, uint64_t count, uint8_t *buffer, bool *zero);

/*
 * A snapshot that is written while the guests run: main's, in an object that serves nothing.  No worker
 * runs from hfs_owe_nothing to hfs_stop_owing, but hfs_stage, what follows it, and hfs_discard of a page that
 * cannot be read: a fault on one that is owed is not served, and asks for none.
 */

/* Begin: no page is owed yet, and faults look whether one is. */
void hfs_owe_nothing(struct hfs *swap);
/*
 * Owe pages, each once: what they are now is kept until hfs_take_owed, whoever writes them.  The guests are suspended;
 * from here on every one that is mapped must be unmapped before they run, and its faults be served (hfs_stage).
 */
void hfs_owe(struct hfs *swap, uint64_t first, uint64_t count);
/*
 * Take pages that are owed, from `first` on, and owe them no more: at most `count`, all of them owed, and at most
 * HFS_RUN.  Returns and `*zero` are as of hfs_peek.  -EINVAL: it is not owed.
 */
int64_t hfs_take_owed(struct hfs *swap, uint64_t first, uint64_t count, uint8_t *buffer, bool *zero);
/* End: faults look no more.  After that, once no fault is being served: free what was copied aside. */
void hfs_stop_owing(struct hfs *swap);
void hfs_drop_aside(struct hfs *swap);

/* Of the process. */

/* NULL: there can be a compressed tier.  Else why not, one line; constant. */
const char *hfs_tier_problem(void);
/*
 * Open a userfaultfd of this process, non-blocking.  `user_mode_only`: no privilege is needed, and
 * accesses from inside the kernel fail.  It has UFFD_FEATURE_WP_ASYNC where the kernel has (Linux
 * 6.7).  -EPERM: no permission.
 */
int hfs_uffd_open(int user_mode_only);
/* Return a new eventfd for hfs_set_stored, or -errno. */
int hfs_alarm_open(void);
/* Probe a userfaultfd.  0: its process lives; -ESRCH: it is dead. */
int hfs_uffd_probe(int uffd);
/* Unmap a part of a shared mapping of this process; the pages stay in its file.  -EINVAL: mlocked. */
int hfs_zap(uint64_t address, uint64_t size);

#endif
