/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Guest memory and staging memory.
 */
#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

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

uint8_t *hfs_guest_page(struct hfs *swap, uint64_t page)
{
	struct hfs_region *region = hfs_region_of(swap, page);

	return region->map + (page - region->first) * HFS_PAGE;
}

uint8_t *hfs_source(struct hfs *swap, uint64_t page)
{
	struct hfs_region *region;

	if (swap->table.copy)
		return swap->staging + page * HFS_PAGE;
	region = hfs_region_of(swap, page);
	return region->map + (page - region->first) * HFS_PAGE;
}

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
