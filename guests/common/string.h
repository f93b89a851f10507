/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef GUESTS_STRING_H
#define GUESTS_STRING_H

#include <stdbool.h>
#include <stddef.h>

/* The compiler may call these four by itself. */
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *a, const void *b, size_t size);

size_t strlen(const char *s);
bool equal(const char *a, const char *b);

#endif
