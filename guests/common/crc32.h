/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef GUESTS_CRC32_H
#define GUESTS_CRC32_H

#include "arch.h"

#include <stddef.h>

/* CRC-32 as in zlib (reflected, polynomial 0xedb88320); start with crc = 0, continue with the
 * value returned. */
u32 crc32(u32 crc, const void *data, size_t size);

#endif
