/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef GUESTS_FDT_H
#define GUESTS_FDT_H

#include "arch.h"

/* Is this a flattened device tree? Reads 4 bytes there. */
bool fdt_valid(const void *fdt);

/* The first range of the /memory node; false if there is none. Reads #address-cells and
 * #size-cells of the root (1 or 2 each). */
bool fdt_memory(const void *fdt, u64 *base, u64 *size);

/* Where the VM's generation id is, 16 bytes, and the interrupt that says that it has changed; false
 * if the tree has none. */
bool fdt_generation(const void *fdt, u64 *address, u32 *intid);

/* The same of the n-th virtio-mmio transport: its registers. */
bool fdt_virtio(const void *fdt, u32 n, u64 *address, u32 *intid);

#endif
