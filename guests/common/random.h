/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"): the
 * upper 32 bits of state * 0x2545f4914f6cdd1d. State 0 would stay 0 and is replaced.
 */
#ifndef GUESTS_RANDOM_H
#define GUESTS_RANDOM_H

#include "arch.h"

struct random {
	u64 state;
};

static inline void random_seed(struct random *random, u64 seed)
{
	random->state = seed ? seed : 0x9e3779b97f4a7c15UL;
}

static inline u64 random_next64(struct random *random)
{
	u64 x = random->state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	random->state = x;
	return x * 0x2545f4914f6cdd1dUL;
}

static inline u32 random_next(struct random *random)
{
	return (u32)(random_next64(random) >> 32);
}

/* 0 .. limit - 1; the bias does not matter here. */
static inline u32 random_below(struct random *random, u32 limit)
{
	return random_next(random) % limit;
}

#endif
