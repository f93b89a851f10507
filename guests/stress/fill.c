/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A pattern in all the memory behind the image, up to the FDT if there is one: each page holds
 * the xorshift64* sequence (random.h) seeded with seed ^ (page number + 1) * 0x9e3779b97f4a7c15,
 * 512 words of 64 bits.
 */
#include "boot.h"
#include "log.h"
#include "random.h"
#include "stress.h"

#define WORDS (PAGE_SIZE / 8)

static u64 *first_page(u64 *pages)
{
	u64 start = (u64)image_end;
	u64 end = memory.fdt ? memory.fdt & ~(PAGE_SIZE - 1) : memory.base + memory.size;

	*pages = end > start ? (end - start) / PAGE_SIZE : 0;
	return (u64 *)start;
}

static void seed_page(struct random *random, u64 seed, u64 page)
{
	random_seed(random, seed ^ (page + 1) * 0x9e3779b97f4a7c15UL);
}

size_t fill_write(u64 seed, char *answer, size_t size)
{
	u64 pages;
	u64 *p = first_page(&pages);

	for (u64 page = 0; page < pages; page++) {
		struct random random;

		seed_page(&random, seed, page);
		for (unsigned int i = 0; i < WORDS; i++)
			*p++ = random_next64(&random);
	}
	return format(answer, size, "ok %lu", pages);
}

size_t fill_check(u64 seed, char *answer, size_t size)
{
	u64 pages, bad = 0, first = 0;
	const u64 *p = first_page(&pages);

	for (u64 page = 0; page < pages; page++) {
		struct random random;

		seed_page(&random, seed, page);
		for (unsigned int i = 0; i < WORDS; i++, p++) {
			if (*p == random_next64(&random))
				continue;
			if (!bad++)
				first = (u64)p;
		}
	}
	if (bad)
		return format(answer, size, "bad %lu words of %lu pages, the first at 0x%lx", bad,
			      pages, first);
	return format(answer, size, "ok %lu", pages);
}
