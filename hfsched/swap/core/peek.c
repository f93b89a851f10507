/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Pages as they are, wherever they are.  Memory is read by its descriptors: a page that is not allocated
 * stays so, and no fault occurs.
 */
#define _GNU_SOURCE
#include "frames.h"
#include "memory.h"
#include "stores.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define LOOKS 1000 /* at a page whose entry changes */

/* Where the bytes of a page are. */
enum place { IN_MEMORY, IN_STAGING, IN_FILE, IN_TIER, IN_SNAPSHOT, NOWHERE, ON_ITS_WAY };

static enum place place_of(struct hfs *swap, uint64_t entry)
{
	/* Its copy is complete, and its memory may be gone. */
	int state = hfs_state(entry) == HFS_PUNCHING ? hfs_copy(entry) : hfs_state(entry);

	switch (state) {
	case HFS_RESIDENT:
		return IN_MEMORY;
	case HFS_STAGED:
	case HFS_WRITING:
	case HFS_MOVING:
		return swap->table.copy ? IN_STAGING : IN_MEMORY;
	case HFS_FILE:
		return IN_FILE;
	case HFS_COMPRESSED:
		return IN_TIER;
	case HFS_ZERO:
		return NOWHERE;
	case HFS_STORED:
		return IN_SNAPSHOT;
	default: /* HFS_TAKING */
		return ON_ITS_WAY;
	}
}

/* Return how many pages from `first` on, at most `count`, are in one place, adjacent to each other. */
static uint64_t gather(struct hfs *swap, uint64_t first, uint64_t count, uint64_t *entries)
{
	struct hfs_region *region = hfs_region_of(swap, first);
	uint64_t end = region->first + region->pages, each;
	enum place place;

	if (count > end - first)
		count = end - first;
	if (count > HFS_RUN)
		count = HFS_RUN;
	entries[0] = hfs_entry(&swap->table, first);
	place = place_of(swap, entries[0]);
	if (place == IN_TIER || place == ON_ITS_WAY)
		return 1;
	for (each = 1; each < count; each++) {
		entries[each] = hfs_entry(&swap->table, first + each);
		if (place_of(swap, entries[each]) != place)
			break;
		if ((place == IN_FILE || place == IN_SNAPSHOT) &&
		    hfs_location(entries[each]) != hfs_location(entries[0]) + each)
			break;
		if (place == IN_SNAPSHOT && !(hfs_location(entries[each]) % HFS_FRAME_PAGES))
			break;
	}
	return each;
}

/*
 * Read a memfd; returns how many pages: all, or those before the first that is allocated.  Where the next hole
 * is is not asked: that takes as long as there is no hole.
 */
static int64_t read_memory(int fd, uint64_t page, uint64_t count, uint8_t *buffer, bool *zero)
{
	off_t from = page * HFS_PAGE, size = count * HFS_PAGE, data, done;
	ssize_t result;

	data = lseek(fd, from, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return -errno;
	*zero = data < 0 || data > from;
	if (*zero)
		return data < 0 || data > from + size ? (int64_t)count : (data - from) / HFS_PAGE;
	for (done = 0; done < size; done += result) {
		result = pread(fd, buffer + done, size - done, from + done);
		if (result < 0 && errno == EINTR)
			result = 0;
		else if (result <= 0)
			return result ? -errno : -EIO;
	}
	return count;
}

static int64_t read_place(struct hfs *swap, uint64_t first, uint64_t count, uint64_t entry,
			  uint8_t *buffer, bool *zero)
{
	struct hfs_region *region = hfs_region_of(swap, first);
	const uint8_t *page;
	int error;

	*zero = false;
	switch (place_of(swap, entry)) {
	case IN_MEMORY:
		return read_memory(region->fd, first - region->first, count, buffer, zero);
	case IN_STAGING:
		return read_memory(swap->staging_fd, first, count, buffer, zero);
	case IN_FILE:
		error = hfs_read(swap, hfs_location(entry), count, buffer);
		return error ? error : (int64_t)count;
	case IN_TIER:
		error = hfs_decompress(swap, entry, buffer);
		return error ? error : 1;
	case IN_SNAPSHOT: /* of the thread that serves faults, where there is one */
		page = hfs_stored_page(&swap->frames, &swap->serve_reader, hfs_location(entry));
		if (!page)
			return -EIO;
		memcpy(buffer, page, count * HFS_PAGE);
		return count;
	case NOWHERE:
		*zero = true;
		return count;
	default:
		return -EAGAIN;
	}
}

int64_t hfs_peek(struct hfs *swap, uint64_t first, uint64_t count, uint8_t *buffer, bool *zero)
{
	uint64_t entries[HFS_RUN];
	int64_t found = -EAGAIN, same;
	int looks;

	for (looks = 0; looks < LOOKS; looks++) {
		found = gather(swap, first, count, entries);
		found = read_place(swap, first, found, entries[0], buffer, zero);
		for (same = 0; same < (found > 0 ? found : 1); same++)
			if (hfs_entry(&swap->table, first + same) != entries[same])
				break;
		if (same)
			return found < 0 ? found : same;
	}
	return -EAGAIN;
}
