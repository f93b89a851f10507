/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Commands as lines of text: words separated by blanks.
 */
#ifndef GUESTS_TEXT_H
#define GUESTS_TEXT_H

#include "arch.h"

#include <stddef.h>

/* Cut trailing newlines and end the text with a 0, in place; the buffer has a byte for it. */
void text_end(char *text, size_t size);

/* If *text starts with the word, step past it and the blanks behind it. */
bool text_word(const char **text, const char *word);

/* Read a number (decimal, or hexadecimal after 0x) and the blanks behind it; false, and nothing
 * consumed, if there is none or it does not fit 64 bits. */
bool text_number(const char **text, u64 *value);

#endif
