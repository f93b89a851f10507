/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A bitmap that allocates runs.
 */
#include "bits.h"

#include <errno.h>
#include <stdlib.h>

int hfs_bits_open(struct hfs_bits *bits, uint64_t count)
{
	bits->count = count;
	bits->cursor = 0;
	bits->words = calloc(count / 64 + 1, sizeof(uint64_t));
	return bits->words ? 0 : -ENOMEM;
}

void hfs_bits_close(struct hfs_bits *bits)
{
	free((void *)bits->words);
	bits->words = NULL;
	bits->count = 0;
}

/* Find the first run of at least `least` clear bits in [from, to), cut to `most`; its length, or 0. */
static uint64_t find(struct hfs_bits *bits, uint64_t from, uint64_t to, uint64_t least,
		     uint64_t most, uint64_t *start)
{
	uint64_t bit = from, run = 0;

	while (bit < to) {
		if (bit % 64 == 0 && ~atomic_load(&bits->words[bit / 64]) == 0) {
			if (run >= least)
				break;
			run = 0;
			bit += 64;
			continue;
		}
		if (hfs_bit(bits, bit)) {
			if (run >= least)
				break;
			run = 0;
		} else {
			if (!run)
				*start = bit;
			if (++run == most)
				break;
		}
		bit++;
	}
	return run >= least ? run : 0;
}

uint64_t hfs_bits_take(struct hfs_bits *bits, uint64_t least, uint64_t most, uint64_t *start)
{
	uint64_t run = find(bits, bits->cursor, bits->count, least, most, start);

	if (!run)
		run = find(bits, 0, bits->count, least, most, start);
	if (run) {
		hfs_bits_set(bits, *start, run);
		bits->cursor = *start + run;
	}
	return run;
}

/* Set `*mask` to at most `count` bits from `start` on within its word; return how many. */
static uint64_t in_word(uint64_t start, uint64_t count, uint64_t *mask)
{
	uint64_t number = 64 - start % 64;

	if (number > count)
		number = count;
	*mask = ~0ull >> (64 - number) << start % 64;
	return number;
}

void hfs_bits_set(struct hfs_bits *bits, uint64_t start, uint64_t count)
{
	uint64_t number, mask;

	for (; count; start += number, count -= number) {
		number = in_word(start, count, &mask);
		atomic_fetch_or(&bits->words[start / 64], mask);
	}
}

void hfs_bits_clear(struct hfs_bits *bits, uint64_t start, uint64_t count)
{
	uint64_t number, mask;

	for (; count; start += number, count -= number) {
		number = in_word(start, count, &mask);
		atomic_fetch_and(&bits->words[start / 64], ~mask);
	}
}

uint64_t hfs_bits_used(struct hfs_bits *bits)
{
	uint64_t word, sum = 0;

	for (word = 0; bits->words && word <= bits->count / 64; word++)
		sum += __builtin_popcountll(atomic_load(&bits->words[word]));
	return sum;
}
