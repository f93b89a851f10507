/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * An identity map with caches on. Without it every access would be to
 * device memory: slow, alignment checked, no exclusives, and not coherent with what a host
 * that maps the same pages reads and writes.
 *
 * 4 KiB pages, 39 bits of address (tables at levels 1, 2, 3), so the VM's memory must be
 * below 512 GiB.
 */
#include "arch.h"
#include "boot.h"
#include "string.h"

#define ENTRIES 512
#define VALID 1UL
#define TABLE 3UL /* at levels 1 and 2; the same bits mean a page at level 3 */
#define PAGE 3UL
#define BLOCK 1UL
#define ACCESSED (1UL << 10)
#define INNER_SHAREABLE (3UL << 8)
#define NORMAL (0UL << 2) /* index into MAIR */
#define DEVICE (1UL << 2)
#define NEVER_EXECUTE (3UL << 53)
#define ADDRESS 0x0000fffffffff000UL

#define MAIR 0x00ffUL /* 0: normal, write-back; 1: device nGnRnE */
#define SCTLR 0x30d0180dUL /* the RES1 bits, and I, SA, C, M */

#define DEVICE_START 0x08000000UL /* where the machine has an interrupt controller and a PL011 */
#define DEVICE_END 0x10000000UL

/* Level 1, two at level 2, a level 3 at each end, and one at level 2 and 3 for what is below. */
#define TABLES 8

static u64 tables[TABLES][ENTRIES] __attribute__((aligned(4096)));
static unsigned int used = 1;

static u64 *next_table(u64 *entry, unsigned int level)
{
	u64 *table;

	if ((*entry & TABLE) == TABLE)
		return (u64 *)(*entry & ADDRESS);
	if (used == TABLES)
		boot_stop("no page table left");
	table = tables[used++];
	if (*entry & VALID) {
		/* A block becomes a table of what it was. */
		u64 part = 1UL << (39 - 9 * (level + 1));
		u64 leaf = level == 2 ? PAGE : BLOCK;

		for (u64 i = 0; i < ENTRIES; i++)
			table[i] = (*entry & ~TABLE) + i * part + leaf;
	}
	*entry = (u64)table | TABLE;
	return table;
}

/* Map [start, end) with blocks as large as alignment allows. */
static void map(u64 start, u64 end, u64 attributes)
{
	while (start < end) {
		u64 *table = tables[0];

		for (unsigned int level = 1;; level++) {
			unsigned int shift = 39 - 9 * level;
			u64 size = 1UL << shift;
			u64 *entry = &table[start >> shift & (ENTRIES - 1)];

			if (level == 3 || (!(start & (size - 1)) && end - start >= size)) {
				*entry = start | attributes | ACCESSED | INNER_SHAREABLE |
					 (level == 3 ? PAGE : BLOCK);
				start += size;
				break;
			}
			table = next_table(entry, level);
		}
	}
}

/* Describe the map. everything: also what the VM does not have, so that an access there gets as
 * far as the hypervisor instead of ending in the guest's own tables. */
void arch_mmu_map(u64 base, u64 size, bool everything)
{
	u64 line = 64;

	if (base + size > 1UL << 39)
		boot_stop("memory above 512 GiB");
	if (everything) {
		map(0, 1UL << 39, NORMAL);
		map(DEVICE_START, DEVICE_END, DEVICE | NEVER_EXECUTE);
	}
	map(base, base + size, NORMAL);
	/* What was written so far went past the caches; what they may hold is older. */
	for (u64 p = (u64)image_start; p < (u64)image_end; p += line)
		__asm__ volatile("dc ivac, %0" ::"r"(p) : "memory");
	__asm__ volatile("dsb sy" ::: "memory");
}

/* Before arch_mmu_map: a page outside of the memory, at any address in it. */
void arch_mmu_map_page(u64 address)
{
	u64 page = address & ~(PAGE_SIZE - 1);

	if (page >= 1UL << 39)
		boot_stop("a page above 512 GiB");
	map(page, page + PAGE_SIZE, NORMAL | NEVER_EXECUTE);
}

/* The same of a device's registers. */
void arch_mmu_map_registers(u64 address)
{
	u64 page = address & ~(PAGE_SIZE - 1);

	if (page >= 1UL << 39)
		boot_stop("registers above 512 GiB");
	map(page, page + PAGE_SIZE, DEVICE | NEVER_EXECUTE);
}

/* Turn it on, on this vCPU. secondary_start calls it too, with a stack but without caches. */
void arch_mmu_enable(void)
{
	u64 features;
	/* T0SZ = 25, walks cacheable and inner shareable, 4 KiB; nothing above. */
	u64 tcr = 25UL | 1UL << 8 | 1UL << 10 | 3UL << 12 | 1UL << 23;

	__asm__ volatile("mrs %0, id_aa64mmfr0_el1" : "=r"(features));
	features &= 0xf;
	tcr |= (features > 5 ? 5 : features) << 32; /* physical size: at most 48 bits */
	__asm__ volatile("msr mair_el1, %0\n\t"
			 "msr tcr_el1, %1\n\t"
			 "msr ttbr0_el1, %2\n\t"
			 "isb\n\t"
			 "tlbi vmalle1\n\t"
			 "ic iallu\n\t"
			 "dsb nsh\n\t"
			 "isb\n\t"
			 "msr sctlr_el1, %3\n\t"
			 "isb" ::"r"(MAIR),
			 "r"(tcr), "r"(tables[0]), "r"(SCTLR)
			 : "memory");
}
