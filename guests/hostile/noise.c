/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Output meant to disturb a terminal that shows it.
 */
#include "hostile.h"
#include "log.h"

#define PL011 0x09000000UL /* its data register */
#define LONG_LINE 5000

static void put(const char *text)
{
	while (*text)
		log_char((unsigned char)*text++);
}

void log_noise(void)
{
	log_line("hostile: control characters");
	for (unsigned int c = 0; c < 32; c++)
		if (c != '\n')
			log_char((unsigned char)c);
	log_char(127);
	log_char('\n');
	log_line("hostile: escape sequences");
	put("\033[2J\033[H\033[31mred\033[0m\033]0;title\007\033[6n\033[?1049h\n");
	log_line("hostile: 8-bit bytes");
	for (unsigned int c = 128; c < 256; c++)
		log_char((unsigned char)c);
	log_char('\n');
	log_line("hostile: a line of %u characters", LONG_LINE);
	for (unsigned int i = 0; i < LONG_LINE; i++)
		log_char((unsigned char)('a' + i % 26));
	log_char('\n');
}

bool pl011_write(const char *text, struct fault *fault)
{
	for (; *text; text++)
		if (arch_try(arch_probe_write, PL011, (u8)*text, fault))
			return false;
	return !arch_try(arch_probe_write, PL011, '\n', fault);
}
