/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The object: creation, configuration, freeing.
 */
#define _GNU_SOURCE
#include "ahead.h"
#include "owed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

struct hfs *hfs_new(int table_fd, uint64_t pages, int copy, int around)
{
	struct hfs *swap = calloc(1, sizeof(*swap));
	int error;

	if (!swap)
		return NULL;
	swap->kick = swap->file_out = swap->file_in = swap->tier_fd = swap->staging_fd =
		swap->alarm = -1;
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
	swap->queue = calloc(HFS_QUEUE, sizeof(*swap->queue));
	if (!swap->buffer || !swap->serve_buffer || !swap->queue)
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

int hfs_lock(struct hfs *swap)
{
	const struct {
		void *address;
		uint64_t size;
	} parts[] = {
		{ swap, sizeof(*swap) },
		{ swap->buffer, HFS_RUN * HFS_PAGE },
		{ swap->serve_buffer, HFS_AROUND_MAX * HFS_PAGE },
		{ swap->aside_buffer, swap->aside_buffer ? HFS_PAGE : 0 },
		{ (void *)swap->owed, swap->owed ? swap->table.pages : 0 },
		{ swap->queue, HFS_QUEUE * sizeof(*swap->queue) },
		{ swap->slots.words, (swap->slots.count + 7) / 8 },
		{ swap->spans.words, (swap->spans.count + 7) / 8 },
		{ swap->table.header, hfs_table_size(swap->table.pages) },
		{ swap->serve_reader.stored, swap->serve_reader.stored ? HFS_FRAME_SIZE : 0 },
		{ swap->serve_reader.frames,
		  swap->serve_reader.frames ? HFS_FRAMES_KEPT * HFS_FRAME_SIZE : 0 },
		{ (void *)swap->frames.header, swap->frames.mapped },
	};
	unsigned int each;
	int error = 0;

	for (each = 0; each < sizeof(parts) / sizeof(*parts); each++)
		if (parts[each].size && mlock2(parts[each].address, parts[each].size, MLOCK_ONFAULT))
			error = -errno;
	return error;
}

void hfs_free(struct hfs *swap)
{
	int region;

	hfs_stop(swap);
	hfs_ahead_close(swap);
	for (region = 0; region < swap->region_count; region++)
		if (swap->regions[region].map)
			munmap(swap->regions[region].map, swap->regions[region].pages * HFS_PAGE);
	if (swap->staging)
		munmap(swap->staging, swap->table.pages * HFS_PAGE);
	hfs_free_aside(swap);
	if (swap->tier)
		munmap(swap->tier, swap->spans.count * HFS_UNIT);
	hfs_frames_close(&swap->frames);
	hfs_reader_close(&swap->serve_reader);
	hfs_reader_close(&swap->reader);
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
	madvise(address, size, MADV_NOHUGEPAGE); /* a part of a huge page cannot be punched */
	*result = address;
	return 0;
}

static int add_region(struct hfs *swap, int fd, uint64_t pages, bool mapped)
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
	error = mapped ? map(fd, pages * HFS_PAGE, &region->map) : 0;
	if (error)
		return error;
	region->fd = fd;
	region->first = first;
	region->pages = pages;
	swap->region_count++;
	return 0;
}

int hfs_add_region(struct hfs *swap, int fd, uint64_t pages)
{
	return add_region(swap, fd, pages, true);
}

int hfs_add_region_to_read(struct hfs *swap, int fd, uint64_t pages)
{
	return add_region(swap, fd, pages, false);
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

int hfs_set_stored(struct hfs *swap, int fd, const int *layers, int count, int alarm)
{
	int error = hfs_frames_open(&swap->frames, fd, layers, count, swap->table.pages);

	if (!error)
		error = hfs_reader_open(&swap->serve_reader);
	if (!error)
		error = hfs_reader_open(&swap->reader);
	swap->alarm = alarm;
	return error;
}

int hfs_phase_now(struct hfs *swap)
{
	return (int)atomic_load(&swap->table.header->phase);
}

uint64_t hfs_faults(struct hfs *swap)
{
	return atomic_load(&swap->table.header->events[HFS_EVENT_FAULTS]);
}

void hfs_counts(struct hfs *swap, struct hfs_counts *counts)
{
	hfs_count(&swap->table, counts);
}
