/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "text.h"

#include "string.h"

void text_end(char *text, size_t size)
{
	while (size && (text[size - 1] == '\n' || text[size - 1] == '\r' || !text[size - 1]))
		size--;
	text[size] = 0;
}

static void skip_blanks(const char **text)
{
	while (**text == ' ')
		(*text)++;
}

bool text_word(const char **text, const char *word)
{
	size_t n = strlen(word);

	for (size_t i = 0; i < n; i++)
		if ((*text)[i] != word[i])
			return false;
	if ((*text)[n] && (*text)[n] != ' ')
		return false;
	*text += n;
	skip_blanks(text);
	return true;
}

static unsigned int digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned int)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned int)(c - 'a') + 10;
	if (c >= 'A' && c <= 'F')
		return (unsigned int)(c - 'A') + 10;
	return 16;
}

bool text_number(const char **text, u64 *value)
{
	const char *p = *text;
	unsigned int base = 10;
	u64 n = 0;

	if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
		base = 16;
		p += 2;
	}
	if (digit(*p) >= base)
		return false;
	for (; digit(*p) < base; p++) {
		if (n > (~0UL - digit(*p)) / base)
			return false;
		n = n * base + digit(*p);
	}
	if (*p && *p != ' ')
		return false;
	skip_blanks(&p);
	*text = p;
	*value = n;
	return true;
}
