/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Pages that are in the layers of a snapshot: frames of up to HFS_FRAME_PAGES pages, compressed
 * together, in the layers' files.  docs/snapshot.md has the format.
 *
 * Which frames there are is in a memfd that main has made, and checked: struct hfs_frames_header, a
 * struct hfs_frame for each, and the numbers (u64) of pages in the order in which they are wanted
 * first.  A page's `location` is HFS_FRAME_PAGES * its frame + its number in it.
 */
#ifndef HFSCHED_SWAP_FRAMES_H
#define HFSCHED_SWAP_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "table.h"

#define HFS_FRAME_PAGES 32u
#define HFS_FRAME_SIZE (HFS_FRAME_PAGES * HFS_PAGE)
#define HFS_FRAMES_KEPT 8u /* by a reader */

/* As hfsched.snapshot.codec. */
enum hfs_codec { HFS_RAW, HFS_LZ4, HFS_ZSTD };

struct hfs_frames_header {
	uint64_t frames;
	uint64_t hot; /* pages */
};

struct hfs_frame {
	uint64_t offset; /* in the layer's file */
	uint32_t stored; /* codec << 24 | bytes there, at most HFS_FRAME_SIZE */
	uint32_t crc;	 /* of these */
	uint32_t layer;
	uint32_t pages;
};

/* All frames; `frames` NULL: there are none. */
struct hfs_frames {
	const struct hfs_frames_header *header;
	const struct hfs_frame *frames;
	const uint64_t *hot;
	uint64_t mapped; /* bytes */
	int layers[HFS_LAYERS];
	int layer_count;
};

/* Frames that one thread has expanded.  All of its memory is there from the beginning. */
struct hfs_frame_reader {
	uint8_t *stored;		   /* HFS_FRAME_SIZE bytes */
	uint8_t *frames;		   /* HFS_FRAMES_KEPT frames */
	uint64_t numbers[HFS_FRAMES_KEPT]; /* of each, plus 1; 0: none */
	unsigned int next;
	void *zstd;
};

/* 0 or -errno; -EINVAL: a memfd that main cannot have made.  `layers` stay the caller's. */
int hfs_frames_open(struct hfs_frames *frames, int fd, const int *layers, int count, uint64_t pages);
void hfs_frames_close(struct hfs_frames *frames);
int hfs_reader_open(struct hfs_frame_reader *reader);
void hfs_reader_close(struct hfs_frame_reader *reader);

static inline uint32_t hfs_frame_length(const struct hfs_frame *frame)
{
	return frame->stored & 0xffffff;
}

/* Return whether there is such a page. */
bool hfs_frames_have(const struct hfs_frames *frames, uint64_t location);
/*
 * Return the page at a location, NULL: its frame cannot be read, or is damaged.  It is valid until the reader
 * has read HFS_FRAMES_KEPT other frames; the pages after it in its frame follow it.
 */
const uint8_t *hfs_stored_page(const struct hfs_frames *frames, struct hfs_frame_reader *reader,
			       uint64_t location);

#endif
