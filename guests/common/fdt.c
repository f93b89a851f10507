/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * As much of the Devicetree Specification's chapter 5 as finding the memory takes.
 */
#include "fdt.h"

#include "string.h"

#define MAGIC 0xd00dfeedU
#define BEGIN_NODE 1U
#define END_NODE 2U
#define PROP 3U
#define NOP 4U

/* Offsets in the header. */
#define OFFSET_STRUCT 8
#define OFFSET_STRINGS 12

static u32 be32(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static u64 cells(const u8 *p, u32 count)
{
	return count == 2 ? (u64)be32(p) << 32 | be32(p + 4) : be32(p);
}

bool fdt_valid(const void *fdt)
{
	return be32(fdt) == MAGIC;
}

bool fdt_memory(const void *fdt, u64 *base, u64 *size)
{
	const u8 *start = fdt;
	const u8 *p = start + be32(start + OFFSET_STRUCT);
	const char *strings = (const char *)start + be32(start + OFFSET_STRINGS);
	u32 address_cells = 2, size_cells = 1;
	unsigned int depth = 0;
	bool in_memory = false;

	for (;;) {
		u32 token = be32(p);

		p += 4;
		if (token == BEGIN_NODE) {
			const char *name = (const char *)p;

			depth++;
			in_memory = depth == 2 && !memcmp(name, "memory", 6) &&
				    (name[6] == 0 || name[6] == '@');
			p += (strlen(name) + 4) & ~3UL;
		} else if (token == END_NODE) {
			in_memory = false;
			depth--;
		} else if (token == PROP) {
			u32 length = be32(p);
			const char *name = strings + be32(p + 4);
			const u8 *value = p + 8;

			if (depth == 1 && equal(name, "#address-cells"))
				address_cells = be32(value);
			if (depth == 1 && equal(name, "#size-cells"))
				size_cells = be32(value);
			if (in_memory && equal(name, "reg") &&
			    length >= 4 * (address_cells + size_cells)) {
				*base = cells(value, address_cells);
				*size = cells(value + 4 * address_cells, size_cells);
				return true;
			}
			p = value + ((length + 3) & ~3U);
		} else if (token != NOP) {
			return false;
		}
	}
}
