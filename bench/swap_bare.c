/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What bench/swap_speed.py measures swap against: nothing is remembered, checked or made good.
 *
 *     swap_bare UFFD BASE AROUND KIND [FILE]	serve faults until killed
 *
 * As a library: who touches pages, and plain loops between a file and memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ull
#define CHUNK (2ull << 20)

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint8_t *buffer(void)
{
	static uint8_t *made;

	if (!made) {
		made = aligned_alloc(PAGE, CHUNK);
		memset(made, 1, CHUNK);
	}
	return made;
}

static int copy(int uffd, uint64_t to, const void *from, uint64_t size)
{
	struct uffdio_copy request = { .dst = to, .src = (uintptr_t)from, .len = size };

	return ioctl(uffd, UFFDIO_COPY, &request);
}

static int zero(int uffd, uint64_t to, uint64_t size)
{
	struct uffdio_zeropage request = { .range = { .start = to, .len = size } };

	return ioctl(uffd, UFFDIO_ZEROPAGE, &request);
}

static int map(int uffd, uint64_t to, uint64_t size)
{
	struct uffdio_continue request = { .range = { .start = to, .len = size } };

	return ioctl(uffd, UFFDIO_CONTINUE, &request);
}

/* The page first, then the rest of its window; page `n` of the memory is page `n` of the file. */
static void answer(int uffd, uint64_t base, uint64_t page, uint64_t around, char kind, int file)
{
	uint64_t low = page / around * around, high = low + around, first = page + 1;
	uint8_t *data = buffer();

	switch (kind) {
	case 'm':
		map(uffd, base + page * PAGE, PAGE);
		if (first < high)
			map(uffd, base + first * PAGE, (high - first) * PAGE);
		break;
	case 'z': /* these come alone */
		zero(uffd, base + page * PAGE, PAGE);
		break;
	default:
		if (pread(file, data, around * PAGE, low * PAGE) != (ssize_t)(around * PAGE))
			abort();
		copy(uffd, base + page * PAGE, data + (page - low) * PAGE, PAGE);
		if (first < high)
			copy(uffd, base + first * PAGE, data + (first - low) * PAGE,
			     (high - first) * PAGE);
		if (low < page)
			copy(uffd, base + low * PAGE, data, (page - low) * PAGE);
	}
}

int main(int count, char **words)
{
	int uffd = atoi(words[1]), file = count > 5 ? atoi(words[5]) : -1;
	uint64_t base = strtoull(words[2], NULL, 0), around = strtoull(words[3], NULL, 0);
	struct pollfd fds = { .fd = uffd, .events = POLLIN };
	struct uffd_msg message;
	uint64_t page;

	buffer();
	for (;;) {
		poll(&fds, 1, -1);
		if (read(uffd, &message, sizeof(message)) == sizeof(message)) {
			page = (message.arg.pagefault.address - base) / PAGE;
			answer(uffd, base, page, around, *words[4], file);
		}
	}
}

/* Read a byte of each page; how long each took, in ns. */
void touch(const volatile uint8_t *base, const uint32_t *pages, int count, uint32_t *took)
{
	uint64_t before;
	int each;

	for (each = 0; each < count; each++) {
		before = now();
		(void)base[pages[each] * PAGE];
		took[each] = now() - before;
	}
}

/* Bytes that no compressor makes smaller; none of the pages is zero. */
void fill(uint64_t *memory, uint64_t size, uint64_t seed)
{
	uint64_t each, word = seed * 2 + 1;

	for (each = 0; each < size / sizeof(word); each++) {
		word ^= word << 13;
		word ^= word >> 7;
		word ^= word << 17;
		memory[each] = word;
	}
}

/* ns for writing memory to the file, and giving it back; 0: it failed. */
uint64_t out(int file, int memory, const uint8_t *map, uint64_t size, uint64_t *written)
{
	uint64_t at, began = now(), last = began;

	*written = 0;
	for (at = 0; at < size; at += CHUNK) {
		if (pwrite(file, map + at, CHUNK, at) != (ssize_t)CHUNK)
			return 0;
		*written += now() - last;
		if (fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, CHUNK))
			return 0;
		last = now();
	}
	return now() - began;
}

/* ns for reading the file into memory that is registered with the uffd; 0: it failed. */
uint64_t into(int file, int uffd, uint64_t map, uint64_t size, uint64_t *reading)
{
	uint64_t at, began = now(), last = began;
	uint8_t *data = buffer();

	*reading = 0;
	for (at = 0; at < size; at += CHUNK) {
		if (pread(file, data, CHUNK, at) != (ssize_t)CHUNK)
			return 0;
		*reading += now() - last;
		if (copy(uffd, map + at, data, CHUNK))
			return 0;
		last = now();
	}
	return now() - began;
}

int give_back(int memory, uint64_t size)
{
	return fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size);
}

int watch(int uffd, uint64_t base, uint64_t size, int on)
{
	struct uffdio_range range = { .start = base, .len = size };
	struct uffdio_register request = {
		.range = range,
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
	};

	return on ? ioctl(uffd, UFFDIO_REGISTER, &request) : ioctl(uffd, UFFDIO_UNREGISTER, &range);
}
