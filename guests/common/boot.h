/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What every guest has in common: how it starts, and what it provides.
 */
#ifndef GUESTS_BOOT_H
#define GUESTS_BOOT_H

#include "arch.h"

/* Provided by the guest. guest_main runs on vCPU 0 with the MMU on and interrupts masked. */
extern const char guest_name[];
void guest_main(void);

/* Each interrupt taken through the vectors, masked meanwhile. Weak: the common one ignores it,
 * which is enough for a guest that only wants to be woken. */
void guest_interrupt(u32 intid);

/* Map also the memory that the VM does not have (see arch_mmu_map). Weak, false. */
extern const bool guest_map_everything;

#define VIRTIO_MAX 4U

struct memory {
	u64 base;
	u64 size; /* bytes */
	u64 fdt;  /* its address, inside the memory, or 0 */
	u64 generation; /* that of the generation id, outside of the memory, or 0 */
	u32 generation_intid;
	u32 virtio_count; /* virtio-mmio transports, in the order of the tree */
	u64 virtio[VIRTIO_MAX];
	u32 virtio_intid[VIRTIO_MAX];
};

extern struct memory memory;

void boot(u64 argument);

/* From the vectors: one interrupt. */
void boot_interrupt(void);

/* Log why and halt. */
_Noreturn void boot_stop(const char *why);

#endif
