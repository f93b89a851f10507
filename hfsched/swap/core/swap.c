/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The whole: its parts put together, regions, what is in memory.
 */
#define _GNU_SOURCE
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* NULL, with errno set, if it cannot be had. */
struct hfs *hfs_new(int table_fd, uint64_t pages, int copy, int around)
{
	struct hfs *swap = calloc(1, sizeof(*swap));
	int error;

	if (!swap)
		return NULL;
	swap->kick = swap->file_out = swap->file_in = swap->tier_fd = swap->staging_fd = -1;
	swap->around = around < 1 ? 1 : around > HFS_AROUND_MAX ? HFS_AROUND_MAX : around;
	error = hfs_table_open(&swap->table, table_fd, pages, copy);
	if (error)
		goto fail;
	error = hfs_bits_open(&swap->slots, pages);
	if (error)
		goto fail;
	error = -ENOMEM;
	swap->buffer = aligned_alloc(HFS_PAGE, HFS_RUN * HFS_PAGE);
	swap->serve_buffer = aligned_alloc(HFS_PAGE, HFS_AROUND_MAX * HFS_PAGE);
	if (!swap->buffer || !swap->serve_buffer)
		goto fail;
	swap->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (swap->kick < 0) {
		error = -errno;
		goto fail;
	}
	return swap;
fail:
	hfs_free(swap);
	errno = -error;
	return NULL;
}

void hfs_free(struct hfs *swap)
{
	int region;

	hfs_stop(swap);
	hfs_ahead_close(swap);
	for (region = 0; region < swap->region_count; region++)
		munmap(swap->regions[region].map, swap->regions[region].pages * HFS_PAGE);
	if (swap->staging)
		munmap(swap->staging, swap->table.pages * HFS_PAGE);
	if (swap->tier)
		munmap(swap->tier, swap->spans.count * HFS_UNIT);
	hfs_bits_close(&swap->slots);
	hfs_bits_close(&swap->spans);
	hfs_table_close(&swap->table);
	if (swap->kick >= 0)
		close(swap->kick);
	free(swap->queue);
	free(swap->buffer);
	free(swap->serve_buffer);
	free(swap);
}

static int map(int fd, uint64_t size, uint8_t **result)
{
	void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (address == MAP_FAILED)
		return -errno;
	madvise(address, size, MADV_DONTFORK);
	madvise(address, size, MADV_NOHUGEPAGE); /* a part of a huge page cannot be given back */
	*result = address;
	return 0;
}

/* Regions, stores: before hfs_start. */
int hfs_add_region(struct hfs *swap, int fd, uint64_t pages)
{
	struct hfs_region *region = &swap->regions[swap->region_count];
	uint64_t first = 0;
	int error;

	if (swap->region_count == HFS_REGIONS)
		return -E2BIG;
	if (swap->region_count)
		first = region[-1].first + region[-1].pages;
	if (first + pages > swap->table.pages)
		return -EINVAL;
	error = map(fd, pages * HFS_PAGE, &region->map);
	if (error)
		return error;
	region->fd = fd;
	region->first = first;
	region->pages = pages;
	swap->region_count++;
	return 0;
}

int hfs_set_file(struct hfs *swap, int file_out, int file_in)
{
	int flags = fcntl(file_out, F_GETFL);

	swap->file_out = file_out;
	swap->file_in = file_in;
	swap->direct = flags >= 0 && flags & O_DIRECT;
	return 0;
}

int hfs_set_tier(struct hfs *swap, int fd, uint64_t size, uint64_t limit)
{
	int error;

	if (hfs_tier_problem())
		return -ENOSYS;
	error = hfs_bits_open(&swap->spans, size / HFS_PAGE * HFS_PAGE / HFS_UNIT);
	if (error)
		return error;
	error = map(fd, size / HFS_PAGE * HFS_PAGE, &swap->tier);
	if (error) {
		hfs_bits_close(&swap->spans);
		return error;
	}
	swap->tier_fd = fd;
	swap->tier_limit = swap->tier_room = limit;
	return 0;
}

int hfs_set_staging(struct hfs *swap, int fd)
{
	swap->staging_fd = fd;
	return map(fd, swap->table.pages * HFS_PAGE, &swap->staging);
}

struct hfs_region *hfs_region_of(struct hfs *swap, uint64_t page)
{
	struct hfs_region *regions = swap->regions;
	int low = 0, high = swap->region_count, middle;

	while (low < high) {
		middle = (low + high) / 2;
		if (page < regions[middle].first + regions[middle].pages)
			high = middle;
		else
			low = middle + 1;
	}
	return low < swap->region_count ? &regions[low] : NULL;
}

uint8_t *hfs_source(struct hfs *swap, uint64_t page)
{
	struct hfs_region *region;

	if (swap->table.copy)
		return swap->staging + page * HFS_PAGE;
	region = hfs_region_of(swap, page);
	return region->map + (page - region->first) * HFS_PAGE;
}

/* Set the bits of pages that are in the guests' memfds. */
int hfs_resident(struct hfs *swap, struct hfs_bits *bits)
{
	struct hfs_region *region;
	off_t from, to, size;
	int each;

	for (each = 0; each < swap->region_count; each++) {
		region = &swap->regions[each];
		size = region->pages * HFS_PAGE;
		for (to = 0; to < size;) {
			from = lseek(region->fd, to, SEEK_DATA);
			if (from < 0 && errno == ENXIO)
				break;
			if (from < 0)
				return -errno;
			to = lseek(region->fd, from, SEEK_HOLE);
			if (to < 0)
				return -errno;
			if (from >= size)
				break;
			if (to > size)
				to = size;
			hfs_bits_set(bits, region->first + from / HFS_PAGE,
				     (to - from) / HFS_PAGE);
		}
	}
	return 0;
}

/*
 * Give back `count` pages of the guest's memfd or of the staging memory.  A page of the guest that
 * is still there afterwards (part of a huge page: -EBUSY) has lost its bytes.
 */
int hfs_punch(struct hfs *swap, uint64_t page, uint64_t count, bool guest)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct hfs_region *region;
	off_t from, data;

	if (!guest) {
		if (fallocate(swap->staging_fd, mode, page * HFS_PAGE, count * HFS_PAGE))
			return -errno;
		return 0;
	}
	region = hfs_region_of(swap, page);
	from = (page - region->first) * HFS_PAGE;
	if (fallocate(region->fd, mode, from, count * HFS_PAGE))
		return -errno;
	data = lseek(region->fd, from, SEEK_DATA);
	return data >= 0 && data < from + (off_t)(count * HFS_PAGE) ? -EBUSY : 0;
}

int hfs_phase_now(struct hfs *swap)
{
	return (int)atomic_load(&swap->table.header->phase);
}

/* Pages in the guests' memfds. */
int64_t hfs_in_memory(struct hfs *swap)
{
	struct hfs_bits present;
	int64_t result = hfs_bits_open(&present, swap->table.pages);

	if (!result)
		result = hfs_resident(swap, &present);
	if (!result)
		result = hfs_bits_used(&present);
	hfs_bits_close(&present);
	return result;
}
