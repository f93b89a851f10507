/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Compression by libraries that are loaded when they are needed, and crc32.
 */
#include "codecs.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#define SLICES 8

static int (*lz4_compress)(const char *, char *, int, int);
static int (*lz4_decompress)(const char *, char *, int, int);
static void *(*zstd_create)(void);
static size_t (*zstd_free)(void *);
static size_t (*zstd_decompress)(void *, void *, size_t, const void *, size_t);
static pthread_once_t lz4_once = PTHREAD_ONCE_INIT, zstd_once = PTHREAD_ONCE_INIT,
		      crc_once = PTHREAD_ONCE_INIT;
static uint32_t crcs[SLICES][256];

static void lz4_load(void)
{
	void *library = dlopen("liblz4.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return;
	*(void **)&lz4_compress = dlsym(library, "LZ4_compress_default");
	*(void **)&lz4_decompress = dlsym(library, "LZ4_decompress_safe");
}

static void zstd_load(void)
{
	void *library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return;
	*(void **)&zstd_create = dlsym(library, "ZSTD_createDCtx");
	*(void **)&zstd_free = dlsym(library, "ZSTD_freeDCtx");
	*(void **)&zstd_decompress = dlsym(library, "ZSTD_decompressDCtx");
}

bool hfs_has_lz4(void)
{
	pthread_once(&lz4_once, lz4_load);
	return lz4_compress && lz4_decompress;
}

bool hfs_has_zstd(void)
{
	pthread_once(&zstd_once, zstd_load);
	return zstd_create && zstd_free && zstd_decompress;
}

int hfs_lz4_compress(const void *source, int size, void *target, int room)
{
	return lz4_compress(source, target, size, room);
}

int hfs_lz4_expand(const void *source, int size, void *target, int room)
{
	return lz4_decompress(source, target, size, room);
}

void *hfs_zstd_open(void)
{
	return hfs_has_zstd() ? zstd_create() : NULL;
}

void hfs_zstd_close(void *context)
{
	if (context)
		zstd_free(context);
}

bool hfs_zstd_expand(void *context, const void *source, uint64_t size, void *target, uint64_t room)
{
	return zstd_decompress(context, target, room, source, size) == room;
}

static void crc_make(void)
{
	uint32_t byte, crc;
	int each;

	for (byte = 0; byte < 256; byte++) {
		for (crc = byte, each = 0; each < 8; each++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
		crcs[0][byte] = crc;
	}
	for (each = 1; each < SLICES; each++)
		for (byte = 0; byte < 256; byte++)
			crcs[each][byte] = crcs[each - 1][byte] >> 8 ^
					   crcs[0][crcs[each - 1][byte] & 255];
}

uint32_t hfs_crc32(const uint8_t *bytes, uint64_t size)
{
	uint32_t crc = UINT32_MAX, low, high;

	pthread_once(&crc_once, crc_make);
	for (; size >= SLICES; size -= SLICES, bytes += SLICES) {
		memcpy(&low, bytes, sizeof(low));
		memcpy(&high, bytes + sizeof(low), sizeof(high));
		low ^= crc;
		crc = crcs[7][low & 255] ^ crcs[6][low >> 8 & 255] ^ crcs[5][low >> 16 & 255] ^
		      crcs[4][low >> 24] ^ crcs[3][high & 255] ^ crcs[2][high >> 8 & 255] ^
		      crcs[1][high >> 16 & 255] ^ crcs[0][high >> 24];
	}
	for (; size; size--, bytes++)
		crc = crc >> 8 ^ crcs[0][(crc ^ *bytes) & 255];
	return ~crc;
}
