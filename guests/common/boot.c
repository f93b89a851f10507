/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "boot.h"

#include "fdt.h"
#include "hypercalls.h"
#include "log.h"

struct memory memory;

__attribute__((weak)) const bool guest_map_everything = false;

__attribute__((weak)) void guest_interrupt(u32 intid)
{
	(void)intid;
}

/* One at a time: what is still pending keeps the line up, and comes again. */
void boot_interrupt(void)
{
	u32 intid = hf_interrupt_get();

	if (intid != HF_INTID_INVALID)
		guest_interrupt(intid);
}

_Noreturn void boot_stop(const char *why)
{
	log_line("%s: stopped: %s", guest_name, why);
	for (;;)
		arch_cpu_off();
}

/*
 * The argument is the address of an FDT in the VM's memory, or the size of that memory, which
 * starts where the image does. Below the image it can only be a size. At or above it, it can be
 * read: an FDT is there, and a size that large reaches that far.
 */
static void find_memory(u64 argument)
{
	u64 start = (u64)image_start;

	memory.base = start;
	memory.size = argument;
	if (argument >= start && !(argument & 3) && fdt_valid((const void *)argument)) {
		memory.fdt = argument;
		if (!fdt_memory((const void *)argument, &memory.base, &memory.size))
			boot_stop("the FDT has no memory node");
		if (!fdt_generation((const void *)argument, &memory.generation,
				    &memory.generation_intid))
			memory.generation = 0;
		while (memory.virtio_count < VIRTIO_MAX &&
		       fdt_virtio((const void *)argument, memory.virtio_count,
				  &memory.virtio[memory.virtio_count],
				  &memory.virtio_intid[memory.virtio_count]))
			memory.virtio_count++;
	}
}

void boot(u64 argument)
{
	find_memory(argument);
	if (memory.generation && !guest_map_everything)
		arch_mmu_map_page(memory.generation);
	for (u32 i = 0; i < memory.virtio_count && !guest_map_everything; i++)
		arch_mmu_map_registers(memory.virtio[i]);
	arch_mmu_map(memory.base, memory.size & ~(PAGE_SIZE - 1), guest_map_everything);
	arch_mmu_enable();
	guest_main();
	boot_stop("nothing left to do");
}
