/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "log.h"

#include "hypercalls.h"
#include "string.h"

struct sink {
	char *to;
	size_t size;
	size_t used;
};

static void put(struct sink *sink, char c)
{
	if (sink->used + 1 < sink->size)
		sink->to[sink->used++] = c;
}

static void put_number(struct sink *sink, u64 value, unsigned int base)
{
	char digits[20];
	unsigned int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n)
		put(sink, digits[--n]);
}

size_t vformat(char *to, size_t size, const char *text, va_list args)
{
	struct sink sink = {to, size, 0};

	for (; *text; text++) {
		size_t limit = ~0UL;
		bool wide = false;

		if (*text != '%') {
			put(&sink, *text);
			continue;
		}
		text++;
		if (text[0] == '.' && text[1] == '*') {
			limit = (size_t)va_arg(args, int);
			text += 2;
		}
		if (*text == 'l') {
			wide = true;
			text++;
		}
		switch (*text) {
		case 's':
			for (const char *s = va_arg(args, const char *); limit && *s; limit--)
				put(&sink, *s++);
			break;
		case 'c':
			put(&sink, (char)va_arg(args, int));
			break;
		case 'd': {
			s64 value = wide ? va_arg(args, s64) : va_arg(args, s32);

			if (value < 0)
				put(&sink, '-');
			put_number(&sink, value < 0 ? -(u64)value : (u64)value, 10);
			break;
		}
		case 'u':
		case 'x':
			put_number(&sink, wide ? va_arg(args, u64) : va_arg(args, u32),
				   *text == 'x' ? 16 : 10);
			break;
		default:
			put(&sink, *text);
		}
	}
	if (size)
		to[sink.used] = 0;
	return sink.used;
}

size_t format(char *to, size_t size, const char *text, ...)
{
	va_list args;
	size_t n;

	va_start(args, text);
	n = vformat(to, size, text, args);
	va_end(args);
	return n;
}

void log_char(unsigned char c)
{
	hypercall(HF_DEBUG_LOG, c, 0, 0, 0);
}

void log_line(const char *text, ...)
{
	char line[256];
	va_list args;

	va_start(args, text);
	vformat(line, sizeof(line), text, args);
	va_end(args);
	for (const char *c = line; *c; c++)
		log_char((unsigned char)*c);
	log_char('\n');
}
