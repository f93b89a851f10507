/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "virtio.h"

#include "hypercalls.h"
#include "string.h"

#include <stddef.h>

#define MAGIC 0x74726976U
#define VERSION_1 (1UL << 32)
#define QUEUE_SIZE 16U /* a power of 2, enough for 3 * REQUESTS */

enum offset {
	MAGIC_VALUE = 0x000,
	VERSION = 0x004,
	DEVICE_ID = 0x008,
	DEVICE_FEATURES = 0x010,
	DEVICE_FEATURES_SEL = 0x014,
	DRIVER_FEATURES = 0x020,
	DRIVER_FEATURES_SEL = 0x024,
	QUEUE_SEL = 0x030,
	QUEUE_SIZE_MAX = 0x034,
	QUEUE_NUM = 0x038,
	QUEUE_READY = 0x044,
	QUEUE_NOTIFY = 0x050,
	INTERRUPT_STATUS = 0x060,
	INTERRUPT_ACK = 0x064,
	STATUS = 0x070,
	QUEUE_DESC = 0x080,
	QUEUE_DRIVER = 0x090,
	QUEUE_DEVICE = 0x0a0,
	CONFIG_GENERATION = 0x0fc,
	CONFIG = 0x100,
};

enum status {
	ACKNOWLEDGE = 1,
	DRIVER = 2,
	DRIVER_OK = 4,
	FEATURES_OK = 8,
	NEEDS_RESET = 64,
	FAILED = 128,
};

#define NEXT 1U
#define WRITE 2U
#define CONFIG_CHANGED 2U

struct descriptor {
	u64 address;
	u32 size;
	u16 flags, next;
};

struct available {
	u16 flags, index, ring[QUEUE_SIZE], used_event;
};

struct used {
	u16 flags, index;
	struct {
		u32 id, size;
	} ring[QUEUE_SIZE];
	u16 avail_event;
};

/* Of the one device. */
static struct descriptor descriptors[QUEUE_SIZE] __attribute__((aligned(4096)));
static struct available available __attribute__((aligned(64)));
static struct used used __attribute__((aligned(64)));
static u16 sent, seen;

static u32 get(const struct virtio *device, u32 offset)
{
	return arch_register_read(device->base + offset);
}

static void set(struct virtio *device, u32 offset, u32 value)
{
	arch_register_write(device->base + offset, value);
}

static void set64(struct virtio *device, u32 offset, const void *address)
{
	set(device, offset, (u32)(u64)address);
	set(device, offset + 4, (u32)((u64)address >> 32));
}

static const char *open_queue(struct virtio *device)
{
	set(device, QUEUE_SEL, 0);
	if (get(device, QUEUE_READY))
		return "its queue is in use";
	if (get(device, QUEUE_SIZE_MAX) < QUEUE_SIZE)
		return "its queue is too small";
	memset(descriptors, 0, sizeof(descriptors));
	memset(&available, 0, sizeof(available));
	memset(&used, 0, sizeof(used));
	sent = seen = 0;
	device->in_flight = 0;
	set(device, QUEUE_NUM, QUEUE_SIZE);
	set64(device, QUEUE_DESC, descriptors);
	set64(device, QUEUE_DRIVER, &available);
	set64(device, QUEUE_DEVICE, &used);
	arch_barrier();
	set(device, QUEUE_READY, 1);
	return NULL;
}

const char *virtio_open(struct virtio *device, u64 base, u32 type, u64 wanted)
{
	const char *wrong;
	u32 status = ACKNOWLEDGE | DRIVER;

	device->base = base;
	if (get(device, MAGIC_VALUE) != MAGIC || get(device, VERSION) != 2)
		return "no transport of version 2";
	if (get(device, DEVICE_ID) != type)
		return "a device of another type";
	set(device, STATUS, 0);
	while (get(device, STATUS))
		;
	set(device, STATUS, status);
	set(device, DEVICE_FEATURES_SEL, 1);
	device->features = (u64)get(device, DEVICE_FEATURES) << 32;
	set(device, DEVICE_FEATURES_SEL, 0);
	device->features |= get(device, DEVICE_FEATURES);
	device->features &= wanted | VERSION_1;
	set(device, DRIVER_FEATURES_SEL, 0);
	set(device, DRIVER_FEATURES, (u32)device->features);
	set(device, DRIVER_FEATURES_SEL, 1);
	set(device, DRIVER_FEATURES, (u32)(device->features >> 32));
	status |= FEATURES_OK;
	set(device, STATUS, status);
	if (!(get(device, STATUS) & FEATURES_OK))
		return "it refuses the features";
	wrong = open_queue(device);
	set(device, STATUS, status | (wrong ? FAILED : DRIVER_OK));
	return wrong;
}

void virtio_send(struct virtio *device, u32 request, const struct buffer buffers[3])
{
	u16 head = (u16)(3 * request);

	for (u16 i = 0; i < 3; i++) {
		u16 next = i == 0 && !buffers[1].size ? 2 : i + 1;

		descriptors[head + i] = (struct descriptor){
			.address = (u64)buffers[i].address,
			.size = buffers[i].size,
			.flags = (u16)((buffers[i].written ? WRITE : 0) | (i < 2 ? NEXT : 0)),
			.next = (u16)(i < 2 ? head + next : 0),
		};
	}
	device->in_flight |= 1U << request;
	available.ring[sent++ % QUEUE_SIZE] = head;
	arch_barrier();
	*(volatile u16 *)&available.index = sent;
	arch_barrier();
	set(device, QUEUE_NOTIFY, 0);
}

/* What the device has given back, -1 if nothing. */
static int take(struct virtio *device)
{
	while (*(volatile u16 *)&used.index != seen) {
		u32 head, request;

		arch_barrier();
		head = used.ring[seen++ % QUEUE_SIZE].id;
		request = head / 3;
		if (head % 3 || request >= REQUESTS || !(device->in_flight & 1U << request)) {
			device->odd++;
			continue;
		}
		device->in_flight &= ~(1U << request);
		device->completed++;
		return (int)request;
	}
	return -1;
}

int virtio_wait(struct virtio *device)
{
	for (;;) {
		int request = take(device);

		if (request >= 0)
			return request;
		if (get(device, STATUS) & NEEDS_RESET)
			return -1;
		arch_wait_for_interrupt();
		virtio_acknowledge(device);
	}
}

bool virtio_acknowledge(struct virtio *device)
{
	u32 why = get(device, INTERRUPT_STATUS);

	set(device, INTERRUPT_ACK, why);
	hf_interrupt_get();
	return why & CONFIG_CHANGED;
}

u64 virtio_config64(const struct virtio *device, u32 offset)
{
	u32 generation, low, high;

	do {
		generation = get(device, CONFIG_GENERATION);
		low = get(device, CONFIG + offset);
		high = get(device, CONFIG + offset + 4);
	} while (generation != get(device, CONFIG_GENERATION));
	return (u64)high << 32 | low;
}
