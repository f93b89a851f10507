/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The swap file and the compressed tier.
 */
#define _GNU_SOURCE
#include "stores.h"

#include "codecs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MISSES 64 /* pages in a row that could not be compressed; after that */
#define SAMPLE 16 /* one page in so many is tried */

const char *hfs_tier_problem(void)
{
	return hfs_has_lz4() ? NULL : "liblz4.so.1 is not installed";
}

static uint64_t units(uint32_t length)
{
	return (length + HFS_UNIT - 1) / HFS_UNIT;
}

/*
 * Return how long a compressed page may be for the tier; 0: do not try this one.  Compressing in
 * vain costs more than everything else that is done with a page.  So after a length was refused,
 * no longer one is tried until something is freed; and after many pages in a row that could not be
 * compressed, most are not tried.
 */
static uint64_t room(struct hfs *swap)
{
	uint32_t freed = atomic_load(&swap->tier_freed);

	if (freed != swap->tier_freed_seen) {
		swap->tier_freed_seen = freed;
		swap->tier_room = swap->tier_limit;
	}
	if (swap->tier_misses >= MISSES && swap->tier_misses++ % SAMPLE)
		return 0;
	return swap->tier_room;
}

int hfs_compress(struct hfs *swap, const uint8_t *page, uint64_t *location, uint32_t *length)
{
	char small[HFS_PAGE];
	uint64_t start, most;
	int size;

	if (!swap->tier)
		return -ENOSPC;
	most = room(swap);
	if (!most)
		return -ENOSPC;
	size = hfs_lz4_compress(page, HFS_PAGE, small, (int)most);
	if (size <= 0) {
		if (swap->tier_misses < MISSES)
			swap->tier_misses++;
		return -ENOSPC;
	}
	swap->tier_misses = 0;
	if (!hfs_bits_take(&swap->spans, units(size), units(size), &start)) {
		swap->tier_room = (units(size) - 1) * HFS_UNIT;
		return -ENOSPC;
	}
	memcpy(swap->tier + start * HFS_UNIT, small, size);
	*location = start * HFS_UNIT;
	*length = size;
	return 0;
}

int hfs_decompress(struct hfs *swap, uint64_t entry, uint8_t *page)
{
	const uint8_t *from = swap->tier + hfs_location(entry);
	int size;

	if (!swap->tier)
		return -EIO;
	size = hfs_lz4_expand(from, (int)hfs_length(entry), page, HFS_PAGE);
	return size == (int)HFS_PAGE ? 0 : -EIO;
}

static int read_slots(int fd, uint64_t slot, uint64_t count, uint8_t *buffer)
{
	uint64_t done = 0, size = count * HFS_PAGE;
	ssize_t result;

	while (done < size) {
		result = pread(fd, buffer + done, size - done, slot * HFS_PAGE + done);
		if (result < 0 && errno == EINTR)
			continue;
		if (result <= 0)
			return result ? -errno : -EIO;
		done += result;
	}
	return 0;
}

int hfs_read_direct(struct hfs *swap, uint64_t slot, uint64_t count, uint8_t *buffer)
{
	return read_slots(swap->file_out, slot, count, buffer);
}

int hfs_read(struct hfs *swap, uint64_t slot, uint64_t count, uint8_t *buffer)
{
	return read_slots(swap->file_in, slot, count, buffer);
}

void hfs_free_copy(struct hfs *swap, uint64_t entry)
{
	if (hfs_copy(entry) == HFS_FILE)
		hfs_bits_clear(&swap->slots, hfs_location(entry), 1);
	if (hfs_copy(entry) != HFS_COMPRESSED || !swap->tier)
		return;
	hfs_bits_clear(&swap->spans, hfs_location(entry) / HFS_UNIT, units(hfs_length(entry)));
	atomic_fetch_add(&swap->tier_freed, 1);
}

/* Return whether a page of the tier is unused.  It is 32 units: half a word. */
static bool empty(struct hfs *swap, uint64_t page)
{
	return !(atomic_load(&swap->spans.words[page / 2]) >> page % 2 * 32 & UINT32_MAX);
}

void hfs_punch_tier(struct hfs *swap)
{
	uint64_t pages = swap->spans.count * HFS_UNIT / HFS_PAGE, page, first;

	for (page = 0; page < pages; page++) {
		for (first = page; page < pages && empty(swap, page); page++)
			;
		if (page > first)
			fallocate(swap->tier_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  first * HFS_PAGE, (page - first) * HFS_PAGE);
	}
}

int hfs_shrink(struct hfs *swap, uint64_t limit, struct hfs_progress *progress)
{
	uint64_t size, least = swap->slots.count, after;
	struct stat status;

	memset(progress, 0, sizeof(*progress));
	progress->done = swap->file_out < 0;
	if (progress->done)
		return 0;
	if (fstat(swap->file_out, &status))
		return -errno;
	while (least && !hfs_bit(&swap->slots, least - 1))
		least--;
	size = (status.st_size + HFS_PAGE - 1) / HFS_PAGE;
	if (size > least) {
		after = size - least > limit ? size - limit : least;
		if (ftruncate(swap->file_out, after * HFS_PAGE)) {
			progress->error = errno;
			progress->place = HFS_IN_FILE;
			return 0;
		}
		progress->moved = size - after;
		size = after;
	}
	progress->done = size <= least;
	return 0;
}

void hfs_punch_file(struct hfs *swap, uint64_t slot, uint64_t count)
{
	if (fallocate(swap->file_out, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, slot * HFS_PAGE,
		      count * HFS_PAGE))
		return; /* it goes with the file */
}
