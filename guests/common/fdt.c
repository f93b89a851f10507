/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * As much of the Devicetree Specification's chapter 5 as finding the memory, the generation id and
 * virtio devices takes.
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

/* A walk through the tree, at one of its tokens: a node's name, or a property. */
struct walk {
	const u8 *next;
	const char *strings;
	unsigned int depth; /* 1: the root, and its properties */
	u32 address_cells, size_cells;
	u32 token;
	const char *name;
	const u8 *value;
	u32 length;
};

static u32 be32(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static u64 cells(const u8 *p, u32 count)
{
	return count == 2 ? (u64)be32(p) << 32 | be32(p + 4) : be32(p);
}

static struct walk begin(const void *fdt)
{
	const u8 *start = fdt;

	return (struct walk){
		.next = start + be32(start + OFFSET_STRUCT),
		.strings = (const char *)start + be32(start + OFFSET_STRINGS),
		.address_cells = 2,
		.size_cells = 1,
	};
}

/* Go on to the next token; false at the end. */
static bool step(struct walk *w)
{
	do {
		w->token = be32(w->next);
		w->next += 4;
	} while (w->token == NOP);
	if (w->token == BEGIN_NODE) {
		w->depth++;
		w->name = (const char *)w->next;
		w->next += (strlen(w->name) + 4) & ~3UL;
	} else if (w->token == END_NODE) {
		w->depth--;
	} else if (w->token == PROP) {
		w->length = be32(w->next);
		w->name = w->strings + be32(w->next + 4);
		w->value = w->next + 8;
		w->next = w->value + ((w->length + 3) & ~3U);
		if (w->depth == 1 && equal(w->name, "#address-cells"))
			w->address_cells = be32(w->value);
		if (w->depth == 1 && equal(w->name, "#size-cells"))
			w->size_cells = be32(w->value);
	} else {
		return false;
	}
	return true;
}

static bool is_reg(const struct walk *w)
{
	return w->token == PROP && equal(w->name, "reg") &&
	       w->length >= 4 * (w->address_cells + w->size_cells);
}

bool fdt_valid(const void *fdt)
{
	return be32(fdt) == MAGIC;
}

bool fdt_memory(const void *fdt, u64 *base, u64 *size)
{
	bool inside = false;

	for (struct walk w = begin(fdt); step(&w);) {
		if (w.token == BEGIN_NODE)
			inside = w.depth == 2 && !memcmp(w.name, "memory", 6) &&
				 (w.name[6] == 0 || w.name[6] == '@');
		else if (w.token == END_NODE)
			inside = false;
		else if (inside && is_reg(&w)) {
			*base = cells(w.value, w.address_cells);
			*size = cells(w.value + 4 * w.address_cells, w.size_cells);
			return true;
		}
	}
	return false;
}

/* The n-th node below the root that is compatible with this, and has an address and an interrupt. */
static bool find(const void *fdt, const char *compatible, u32 n, u64 *address, u32 *intid)
{
	bool named = false, placed = false, signalled = false;

	for (struct walk w = begin(fdt); step(&w);) {
		if (w.token != PROP) {
			named = placed = signalled = false;
			continue;
		}
		if (w.depth != 2)
			continue;
		if (equal(w.name, "compatible")) {
			named = equal((const char *)w.value, compatible);
		} else if (is_reg(&w)) {
			*address = cells(w.value, w.address_cells);
			placed = true;
		} else if (equal(w.name, "interrupts") && w.length >= 4) {
			*intid = be32(w.value);
			signalled = true;
		}
		if (named && placed && signalled) {
			if (!n--)
				return true;
			named = false;
		}
	}
	return false;
}

bool fdt_generation(const void *fdt, u64 *address, u32 *intid)
{
	return find(fdt, "microsoft,vmgenid", 0, address, intid);
}

bool fdt_virtio(const void *fdt, u32 n, u64 *address, u32 *intid)
{
	return find(fdt, "virtio,mmio", n, address, intid);
}
