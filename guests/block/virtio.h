/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A virtio device on a virtio-mmio transport (virtio 1.3, sections 2 and 4.2), with one split
 * queue of which each request has a chain of its own of three descriptors.
 */
#ifndef GUESTS_BLOCK_VIRTIO_H
#define GUESTS_BLOCK_VIRTIO_H

#include "arch.h"

#define REQUESTS 4U /* in flight at once, at most */

struct buffer {
	const void *address;
	u32 size;
	bool written; /* by the device */
};

struct virtio {
	u64 base;	/* of the registers */
	u64 features;	/* agreed on */
	u32 in_flight;	/* a bit for each request */
	u64 completed;
	u64 odd;	/* the device gave back what it did not have */
};

/* Initialise a device of this type, with the features wanted of those it offers, and VERSION_1;
 * NULL, or what is wrong. Also after an error: the device is reset first. */
const char *virtio_open(struct virtio *device, u64 base, u32 type, u64 wanted);

/* Hand over a request, which is not in flight, of three buffers, of which the
 * second may be empty. */
void virtio_send(struct virtio *device, u32 request, const struct buffer buffers[3]);

/* Sleep until a request is given back, and return which; -1: the device needs a reset. The
 * device's interrupt must be enabled, and interrupts masked. */
int virtio_wait(struct virtio *device);

/* After an interrupt: acknowledge it. True: the configuration may have changed. */
bool virtio_acknowledge(struct virtio *device);

/* 64 bits of the configuration space. */
u64 virtio_config64(const struct virtio *device, u32 offset);

#endif
