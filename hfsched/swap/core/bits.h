/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A bitmap that allocates runs.  Setting and clearing are atomic; one thread at a time takes.
 */
#ifndef HFSCHED_SWAP_BITS_H
#define HFSCHED_SWAP_BITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct hfs_bits {
	_Atomic uint64_t *words;
	uint64_t count;	 /* bits */
	uint64_t cursor; /* where hfs_bits_take continues */
};

/* `count` bits, all clear.  -ENOMEM.  hfs_bits_close frees them; of zeroed bits too. */
int hfs_bits_open(struct hfs_bits *bits, uint64_t count);
void hfs_bits_close(struct hfs_bits *bits);
/*
 * Set a run of clear bits, at least `least` and at most `most` long, and return its length; 0:
 * there is none, and `*start` is undefined.
 */
uint64_t hfs_bits_take(struct hfs_bits *bits, uint64_t least, uint64_t most, uint64_t *start);
/* [start, start + count); within the bitmap. */
void hfs_bits_set(struct hfs_bits *bits, uint64_t start, uint64_t count);
void hfs_bits_clear(struct hfs_bits *bits, uint64_t start, uint64_t count);
/* Return how many are set. */
uint64_t hfs_bits_used(struct hfs_bits *bits);

static inline bool hfs_bit(struct hfs_bits *bits, uint64_t bit)
{
	return atomic_load(&bits->words[bit / 64]) >> bit % 64 & 1;
}

#endif
