/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Formatting, and the log. Conversions: %s %c %d %u %x %ld %lu %lx %%, and %.*s.
 */
#ifndef GUESTS_LOG_H
#define GUESTS_LOG_H

#include <stdarg.h>
#include <stddef.h>

/* Both return the length written, without the terminating 0; longer text is cut at size - 1. */
size_t format(char *to, size_t size, const char *text, ...)
	__attribute__((format(printf, 3, 4)));
size_t vformat(char *to, size_t size, const char *text, va_list args);

/* One line to the hypervisor's debug log; the newline is added. */
void log_line(const char *text, ...) __attribute__((format(printf, 1, 2)));
void log_char(unsigned char c);

#endif
