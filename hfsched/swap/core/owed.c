/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Pages that a snapshot has yet to write while the guests run on: nothing maps such a page.
 *
 * One memfd, which main shares with the monitor, has a byte for each page (enum hfs_owed), rounded up to a page; then
 * the pages that were copied aside, each in its own place.  Main takes pages: it reads one where it is, and turns
 * OWED into WRITTEN.  If the thread that serves faults was first, what main has read may be wrong, and is dropped.
 * That thread copies a page that is OWED, turns it into ASIDE, and maps it only then; if main was first, nobody needs
 * the copy.  So a monitor that dies between any two steps leaves a page that its successor copies again.
 */
#define _GNU_SOURCE
#include "owed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum hfs_owed { OWED, ASIDE, WRITTEN };

static uint64_t map_size(uint64_t pages)
{
	return (pages + HFS_PAGE - 1) / HFS_PAGE * HFS_PAGE;
}

static off_t place(struct hfs *swap, uint64_t page)
{
	return map_size(swap->table.pages) + page * HFS_PAGE;
}

uint64_t hfs_aside_size(uint64_t pages)
{
	return map_size(pages) + pages * HFS_PAGE;
}

int hfs_set_aside(struct hfs *swap, int fd)
{
	uint64_t size = map_size(swap->table.pages);
	struct stat status;
	void *map;

	if (fstat(fd, &status))
		return -errno;
	if ((uint64_t)status.st_size < hfs_aside_size(swap->table.pages))
		return -EINVAL;
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	madvise(map, size, MADV_DONTFORK);
	swap->owed = map;
	swap->aside_fd = fd;
	swap->aside_buffer = aligned_alloc(HFS_PAGE, HFS_PAGE);
	return swap->aside_buffer ? 0 : -ENOMEM;
}

void hfs_free_aside(struct hfs *swap)
{
	if (swap->owed)
		munmap((void *)swap->owed, map_size(swap->table.pages));
	free(swap->aside_buffer);
}

static bool becomes(struct hfs *swap, uint64_t page, int from, int to)
{
	uint8_t before = from;

	return atomic_compare_exchange_strong(&swap->owed[page], &before, to);
}

static int punch(struct hfs *swap, uint64_t page, uint64_t count)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	return fallocate(swap->aside_fd, mode, place(swap, page), count * HFS_PAGE) ? -errno : 0;
}

/* The thread that serves faults. */

bool hfs_owing(struct hfs *swap)
{
	return swap->owed && atomic_load(&swap->table.header->owing);
}

static int keep(struct hfs *swap, uint64_t page)
{
	ssize_t size = HFS_PAGE;
	bool zero;
	int64_t found = hfs_peek(swap, page, 1, swap->aside_buffer, &zero);

	if (found < 0)
		return (int)found;
	if (!zero) /* else it is a hole already */
		size = pwrite(swap->aside_fd, swap->aside_buffer, HFS_PAGE, place(swap, page));
	if (size < 0)
		return -errno;
	if (size < (ssize_t)HFS_PAGE)
		return -ENOSPC;
	if (!becomes(swap, page, OWED, ASIDE) && !zero)
		punch(swap, page, 1);
	return 0;
}

int hfs_keep_owed(struct hfs *swap, uint64_t first, uint64_t end)
{
	int error;

	if (!hfs_owing(swap))
		return 0;
	for (; first < end; first++) {
		if (atomic_load(&swap->owed[first]) != OWED)
			continue;
		error = keep(swap, first);
		if (error == -ENOMEM || error == -ENOSPC)
			hfs_event(swap, HFS_EVENT_NO_MEMORY, 1);
		else if (error)
			hfs_event(swap, HFS_EVENT_READ_ERRORS, 1);
		if (error)
			return error;
	}
	return 0;
}

/* Main. */

void hfs_owe_nothing(struct hfs *swap)
{
	memset((void *)swap->owed, WRITTEN, swap->table.pages);
	punch(swap, 0, swap->table.pages);
	atomic_store(&swap->table.header->owing, 1);
}

void hfs_owe(struct hfs *swap, uint64_t first, uint64_t count)
{
	memset((void *)(swap->owed + first), OWED, count);
	atomic_thread_fence(memory_order_seq_cst);
}

void hfs_stop_owing(struct hfs *swap)
{
	atomic_store(&swap->table.header->owing, 0);
}

void hfs_drop_aside(struct hfs *swap)
{
	punch(swap, 0, swap->table.pages);
}

/* Return how many pages from `first` on, at most `count`, are as that one is; `*state`: how. */
static uint64_t alike(struct hfs *swap, uint64_t first, uint64_t count, int *state)
{
	uint64_t each;

	*state = atomic_load(&swap->owed[first]);
	for (each = 1; each < count; each++)
		if (atomic_load(&swap->owed[first + each]) != *state)
			break;
	return each;
}

/* Take pages that were copied aside; -EIO: the copy is shorter than it must be. */
static int take_aside(struct hfs *swap, uint64_t first, uint64_t count, uint8_t *buffer)
{
	uint64_t done = 0, size = count * HFS_PAGE;
	ssize_t result;

	while (done < size) {
		result = pread(swap->aside_fd, buffer + done, size - done, place(swap, first) + done);
		if (result < 0 && errno == EINTR)
			continue;
		if (result <= 0)
			return result ? -errno : -EIO;
		done += result;
	}
	punch(swap, first, count);
	for (; count; first++, count--)
		atomic_store(&swap->owed[first], WRITTEN);
	return 0;
}

int64_t hfs_take_owed(struct hfs *swap, uint64_t first, uint64_t count, uint8_t *buffer, bool *zero)
{
	int64_t found, each;
	int state, error;

	*zero = false;
	if (count > HFS_RUN)
		count = HFS_RUN;
	for (;;) {
		count = alike(swap, first, count, &state);
		if (state == WRITTEN)
			return -EINVAL;
		if (state == ASIDE) {
			error = take_aside(swap, first, count, buffer);
			return error ? error : (int64_t)count;
		}
		found = hfs_peek(swap, first, count, buffer, zero);
		if (found > 0)
			break;
		if (atomic_load(&swap->owed[first]) == OWED)
			return found;
		/* A fault was first: what is there now is not owed. */
	}
	for (each = 0; each < found; each++)
		if (!becomes(swap, first + each, OWED, WRITTEN))
			break;
	if (each) /* the next call takes the others */
		return each;
	*zero = false;
	error = take_aside(swap, first, 1, buffer);
	return error ? error : 1;
}
