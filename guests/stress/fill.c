/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A pattern in all the memory behind the image, up to the FDT if there is one: each page holds
 * 512 words of 64 bits. The first is what xorshift64* (random.h) gives first, seeded with
 * seed ^ (page number + 1) * GOLDEN; each other one is GOLDEN more than the one before it. That
 * cannot be compressed, and takes two instructions a word where every one is emulated.
 */
#include "boot.h"
#include "log.h"
#include "random.h"
#include "stress.h"

#define WORDS (PAGE_SIZE / 8)
#define GOLDEN 0x9e3779b97f4a7c15UL

static u64 *first_page(u64 *pages)
{
	u64 start = (u64)image_end;
	u64 end = memory.fdt ? memory.fdt & ~(PAGE_SIZE - 1) : memory.base + memory.size;

	*pages = end > start ? (end - start) / PAGE_SIZE : 0;
	return (u64 *)start;
}

static u64 first_word(u64 seed, u64 page)
{
	struct random random;

	random_seed(&random, seed ^ (page + 1) * GOLDEN);
	return random_next64(&random);
}

size_t fill_write(u64 seed, char *answer, size_t size)
{
	u64 pages;
	u64 *p = first_page(&pages);

	for (u64 page = 0; page < pages; page++) {
		u64 word = first_word(seed, page);

#pragma unroll 16
		for (unsigned int i = 0; i < WORDS; i++, word += GOLDEN)
			*p++ = word;
	}
	return format(answer, size, "ok %lu", pages);
}

static bool holds(const u64 *p, u64 word)
{
#pragma unroll 16
	for (unsigned int i = 0; i < WORDS; i++, word += GOLDEN) {
		if (p[i] != word)
			return false;
	}
	return true;
}

size_t fill_check(u64 seed, char *answer, size_t size)
{
	u64 pages, bad = 0, first = 0;
	const u64 *p = first_page(&pages);

	for (u64 page = 0; page < pages; page++, p += WORDS) {
		u64 word = first_word(seed, page);

		if (holds(p, word))
			continue;
		for (unsigned int i = 0; i < WORDS; i++, word += GOLDEN) {
			if (p[i] != word && !bad++)
				first = (u64)&p[i];
		}
	}
	if (bad)
		return format(answer, size, "bad %lu words of %lu pages, the first at 0x%lx", bad,
			      pages, first);
	return format(answer, size, "ok %lu", pages);
}
