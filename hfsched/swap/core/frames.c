/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Reading, checking and expanding frames of a snapshot's layers.
 */
#define _GNU_SOURCE
#include "frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codecs.h"

/* An LZ4 frame: version 1, independent blocks, content size and checksum; see lz4_Frame_format.md. */
#define LZ4_HEAD 15u /* bytes: magic, FLG, BD, content size, header checksum */
#define LZ4_STORED 0x80000000u
static const uint8_t lz4_mark[] = { 0x04, 0x22, 0x4d, 0x18, 0x6c };

static const uint8_t zstd_mark[] = { 0x28, 0xb5, 0x2f, 0xfd };

static bool frame_is_valid(const struct hfs_frame *frame, int layers)
{
	uint32_t length = hfs_frame_length(frame);

	return frame->layer < (uint32_t)layers && length && length <= HFS_FRAME_SIZE &&
	       frame->pages && frame->pages <= HFS_FRAME_PAGES && frame->stored >> 24 <= HFS_ZSTD;
}

int hfs_frames_open(struct hfs_frames *frames, int fd, const int *layers, int count, uint64_t pages)
{
	uint64_t each, room;
	struct stat status;
	void *map;

	if (count < 1 || count > (int)HFS_LAYERS)
		return -EINVAL;
	if (fstat(fd, &status))
		return -errno;
	if ((uint64_t)status.st_size < sizeof(struct hfs_frames_header))
		return -EINVAL;
	map = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	frames->mapped = status.st_size;
	frames->header = map;
	frames->frames = (const void *)(frames->header + 1);
	room = frames->mapped - sizeof(*frames->header);
	if (frames->header->frames > room / sizeof(struct hfs_frame))
		goto invalid;
	room -= frames->header->frames * sizeof(struct hfs_frame);
	frames->hot = (const void *)(frames->frames + frames->header->frames);
	if (frames->header->hot > room / sizeof(uint64_t))
		goto invalid;
	for (each = 0; each < frames->header->frames; each++)
		if (!frame_is_valid(&frames->frames[each], count))
			goto invalid;
	for (each = 0; each < frames->header->hot; each++)
		if (frames->hot[each] >= pages)
			goto invalid;
	memcpy(frames->layers, layers, count * sizeof(*layers));
	frames->layer_count = count;
	return 0;
invalid:
	hfs_frames_close(frames);
	return -EINVAL;
}

void hfs_frames_close(struct hfs_frames *frames)
{
	if (frames->header)
		munmap((void *)frames->header, frames->mapped);
	memset(frames, 0, sizeof(*frames));
}

int hfs_reader_open(struct hfs_frame_reader *reader)
{
	reader->stored = aligned_alloc(HFS_PAGE, HFS_FRAME_SIZE);
	reader->frames = aligned_alloc(HFS_PAGE, HFS_FRAMES_KEPT * HFS_FRAME_SIZE);
	if (hfs_has_zstd())
		reader->zstd = hfs_zstd_open();
	hfs_has_lz4();
	return reader->stored && reader->frames ? 0 : -ENOMEM;
}

void hfs_reader_close(struct hfs_frame_reader *reader)
{
	free(reader->stored);
	free(reader->frames);
	hfs_zstd_close(reader->zstd);
	memset(reader, 0, sizeof(*reader));
}

bool hfs_frames_have(const struct hfs_frames *frames, uint64_t location)
{
	uint64_t frame = location / HFS_FRAME_PAGES;

	return frames->header && frame < frames->header->frames &&
	       location % HFS_FRAME_PAGES < frames->frames[frame].pages;
}

static bool read_all(int fd, uint64_t offset, uint8_t *buffer, uint64_t size)
{
	ssize_t result;

	while (size) {
		result = pread(fd, buffer, size, offset);
		if (result < 0 && errno == EINTR)
			continue;
		if (result <= 0)
			return false;
		buffer += result;
		offset += result;
		size -= result;
	}
	return true;
}

static uint32_t word(const uint8_t *bytes)
{
	return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* The checksum of the content is not looked at: the crc32 of the stored bytes was right. */
static bool expand_lz4(const uint8_t *stored, uint64_t length, uint8_t *target, uint64_t size)
{
	uint64_t at = LZ4_HEAD, made = 0, block;
	uint32_t head;
	int result;

	if (!hfs_has_lz4() || length < LZ4_HEAD || memcmp(stored, lz4_mark, sizeof(lz4_mark)) ||
	    word(stored + 6) != size || word(stored + 10))
		return false;
	for (;;) {
		if (length - at < sizeof(head))
			return false;
		head = word(stored + at);
		at += sizeof(head);
		if (!head)
			return made == size && length - at == sizeof(head);
		block = head & ~LZ4_STORED;
		if (block > length - at)
			return false;
		if (head & LZ4_STORED) {
			if (block > size - made)
				return false;
			memcpy(target + made, stored + at, block);
			result = (int)block;
		} else {
			result = hfs_lz4_expand(stored + at, (int)block, target + made,
						(int)(size - made));
		}
		if (result < 0)
			return false;
		made += result;
		at += block;
	}
}

static bool expand(struct hfs_frame_reader *reader, const struct hfs_frame *frame, uint8_t *target)
{
	uint64_t size = frame->pages * HFS_PAGE, length = hfs_frame_length(frame);

	switch (frame->stored >> 24) {
	case HFS_RAW:
		if (length != size)
			return false;
		memcpy(target, reader->stored, size);
		return true;
	case HFS_LZ4:
		return expand_lz4(reader->stored, length, target, size);
	default:
		return reader->zstd && length > sizeof(zstd_mark) &&
		       !memcmp(reader->stored, zstd_mark, sizeof(zstd_mark)) &&
		       hfs_zstd_expand(reader->zstd, reader->stored, length, target, size);
	}
}

const uint8_t *hfs_stored_page(const struct hfs_frames *frames, struct hfs_frame_reader *reader,
			       uint64_t location)
{
	uint64_t number = location / HFS_FRAME_PAGES, inside = location % HFS_FRAME_PAGES * HFS_PAGE;
	const struct hfs_frame *frame;
	unsigned int each;
	uint8_t *target;

	if (!hfs_frames_have(frames, location))
		return NULL;
	for (each = 0; each < HFS_FRAMES_KEPT; each++)
		if (reader->numbers[each] == number + 1)
			return reader->frames + each * HFS_FRAME_SIZE + inside;
	frame = &frames->frames[number];
	each = reader->next;
	reader->next = (each + 1) % HFS_FRAMES_KEPT;
	reader->numbers[each] = 0;
	target = reader->frames + each * HFS_FRAME_SIZE;
	if (!read_all(frames->layers[frame->layer], frame->offset, reader->stored,
		      hfs_frame_length(frame)) ||
	    hfs_crc32(reader->stored, hfs_frame_length(frame)) != frame->crc ||
	    !expand(reader, frame, target))
		return NULL;
	reader->numbers[each] = number + 1;
	return target + inside;
}
