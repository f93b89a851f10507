/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Compression by liblz4 and libzstd, loaded when first asked for, and crc32.  Their interfaces used
 * here are stable ones: LZ4 since 1.7, Zstandard since 1.0.
 */
#ifndef HFSCHED_SWAP_CODECS_H
#define HFSCHED_SWAP_CODECS_H

#include <stdbool.h>
#include <stdint.h>

bool hfs_has_lz4(void);
bool hfs_has_zstd(void);

/* Compress a block; its size, or 0: it has no room.  hfs_has_lz4 has returned true. */
int hfs_lz4_compress(const void *source, int size, void *target, int room);
/* Expand a block of `size` bytes; how many bytes that makes, negative: it is none, or needs more room. */
int hfs_lz4_expand(const void *source, int size, void *target, int room);

/* What expanding Zstandard frames works with; NULL: there is no memory, or no library. */
void *hfs_zstd_open(void);
void hfs_zstd_close(void *context);
/* Expand one frame into exactly `room` bytes; allocates nothing. */
bool hfs_zstd_expand(void *context, const void *source, uint64_t size, void *target, uint64_t room);

/* As zlib's crc32 of all the bytes. */
uint32_t hfs_crc32(const uint8_t *bytes, uint64_t size);

#endif
