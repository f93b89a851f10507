/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * An identity map of the guest's own, in place of the one it was started with, which it cannot
 * write to.
 *
 * 4 levels, of which the first has one entry in use, so the VM's memory must be below 512 GiB.
 * Pages of 2 MiB and 4 KiB: 1 GiB is not in every processor.
 */
#include "arch.h"
#include "boot.h"

#define ENTRIES 512
#define PRESENT 1UL
#define WRITABLE 2UL
#define LARGE (1UL << 7)
#define USED (3UL << 5) /* accessed and dirty already: unused here, and the processor need not write */
#define ADDRESS 0x000ffffffffff000UL

#define GIB (1UL << 30)

/* One at levels 4 and 3, at level 2 one for each GiB that the memory touches, and one at level 1
 * for each of its ends. */
#define TABLES 16

static u64 tables[TABLES][ENTRIES] __attribute__((aligned(4096)));
static unsigned int used = 2;

/* With everything mapped: one table for the GiB outside of the memory that was used last. */
static u64 window[ENTRIES] __attribute__((aligned(4096)));
static u64 *window_entry;
static bool has_window;

static u64 *next_table(u64 *entry)
{
	if (!(*entry & PRESENT)) {
		if (used == TABLES)
			boot_stop("no page table left");
		*entry = (u64)tables[used++] | PRESENT | WRITABLE;
	}
	return (u64 *)(*entry & ADDRESS);
}

/* Map [start, end) with pages as large as alignment allows. */
static void map(u64 start, u64 end)
{
	while (start < end) {
		u64 *table = tables[1];

		for (unsigned int shift = 30;; shift -= 9) {
			u64 size = 1UL << shift;
			u64 *entry = &table[start >> shift & (ENTRIES - 1)];

			if (shift == 12 ||
			    (shift == 21 && !(start & (size - 1)) && end - start >= size)) {
				*entry = start | PRESENT | WRITABLE | USED |
					 (shift == 21 ? LARGE : 0);
				start += size;
				break;
			}
			table = next_table(entry);
		}
	}
}

/* Describe the map. everything: also what the VM does not have, so that an access there gets as
 * far as the hypervisor instead of ending in the guest's own tables. */
void arch_mmu_map(u64 base, u64 size, bool everything)
{
	u64 end = base + size;

	if (end > ENTRIES * GIB)
		boot_stop("memory above 512 GiB");
	if (everything) {
		base &= ~(GIB - 1);
		end = (end + GIB - 1) & ~(GIB - 1);
		has_window = true;
	}
	tables[0][0] = (u64)tables[1] | PRESENT | WRITABLE;
	map(base, end);
}

/* Before arch_mmu_map: a page outside of the memory, at any address in it. */
void arch_mmu_map_page(u64 address)
{
	u64 page = address & ~(PAGE_SIZE - 1);

	if (page >= ENTRIES * GIB)
		boot_stop("a page above 512 GiB");
	tables[0][0] = (u64)tables[1] | PRESENT | WRITABLE;
	map(page, page + PAGE_SIZE);
}

/* The same of a device's registers: nothing is behind them that a cache could keep. */
void arch_mmu_map_registers(u64 address)
{
	arch_mmu_map_page(address);
}

/* Turn it on, on this vCPU. */
void arch_mmu_enable(void)
{
	__asm__ volatile("movq %0, %%cr3" ::"r"(tables[0]) : "memory");
}

/* The guest's own tables lack the address: true if now they have it. */
bool arch_mmu_window(u64 address)
{
	u64 gib = address / GIB;

	if (!has_window || gib >= ENTRIES || tables[1][gib] & PRESENT)
		return false;
	if (window_entry)
		*window_entry = 0;
	window_entry = &tables[1][gib];
	for (u64 i = 0; i < ENTRIES; i++)
		window[i] = (gib * GIB + (i << 21)) | PRESENT | WRITABLE | USED | LARGE;
	*window_entry = (u64)window | PRESENT | WRITABLE;
	arch_mmu_enable();
	return true;
}
