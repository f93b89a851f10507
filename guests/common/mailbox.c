/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "mailbox.h"

#include "boot.h"
#include "string.h"

u8 mailbox_rx[FFA_MSG_MAX] __attribute__((aligned(4096)));
u8 mailbox_tx[FFA_MSG_MAX] __attribute__((aligned(4096)));
u32 mailbox_self;

void mailbox_open(void)
{
	struct call result = hypercall(FFA_VERSION, FFA_VERSION_1_0, 0, 0, 0);

	if ((s32)result.r[0] < 0)
		boot_stop("FF-A 1.0 is refused");
	result = hypercall(FFA_ID_GET, 0, 0, 0, 0);
	if (result.r[0] != FFA_SUCCESS)
		boot_stop("no id");
	mailbox_self = (u32)result.r[2] & 0xffff;
	result = hypercall(FFA_RXTX_MAP, (u64)mailbox_tx, (u64)mailbox_rx, 1, 0);
	if (result.r[0] != FFA_SUCCESS)
		boot_stop("the mailbox cannot be mapped");
}

s32 mailbox_send_yielding(u32 to, u32 size)
{
	for (;;) {
		s32 error = mailbox_send(to, size, FFA_MSG_SEND_NOTIFY);

		if (error != FFA_BUSY)
			return error;
		ffa_yield();
	}
}

u32 mailbox_compose(const struct ports *ports, const void *payload, size_t size)
{
	struct ports *header = (struct ports *)mailbox_tx;

	if (size > PAYLOAD_MAX)
		size = PAYLOAD_MAX;
	header->source = ports->destination;
	header->destination = ports->source;
	memcpy(mailbox_tx + sizeof(*header), payload, size);
	return (u32)(sizeof(*header) + size);
}
