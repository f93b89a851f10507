/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The VM's mailbox: one page to receive, one page to send.
 *
 * A message received stays in mailbox_rx, and no other arrives, until mailbox_release(). A
 * message to send is built in mailbox_tx.
 */
#ifndef GUESTS_MAILBOX_H
#define GUESTS_MAILBOX_H

#include "hypercalls.h"

#include <stddef.h>

/* How host programs are told apart, at the start of each message. */
struct ports {
	u64 source;
	u64 destination;
};

#define PAYLOAD_MAX (FFA_MSG_MAX - sizeof(struct ports))

struct message {
	u32 sender;
	u32 size; /* bytes in mailbox_rx, the ports included */
};

extern u8 mailbox_rx[FFA_MSG_MAX], mailbox_tx[FFA_MSG_MAX];
extern u32 mailbox_self; /* this VM's id */

/* Agree on FF-A 1.0, learn the id, map the pages. */
void mailbox_open(void);

/* Read an FF-A result as a message: true if it is one. */
static inline bool mailbox_parse(const struct call *result, struct message *message)
{
	if (result->r[0] != FFA_MSG_SEND)
		return false;
	message->sender = (u32)result->r[1] >> 16;
	message->size = (u32)result->r[3] > FFA_MSG_MAX ? FFA_MSG_MAX : (u32)result->r[3];
	return true;
}

/* Sleep for a message; false: an enabled interrupt is pending instead. */
static inline bool mailbox_wait(struct message *message)
{
	struct call result = hypercall(FFA_MSG_WAIT, 0, 0, 0, 0);

	return mailbox_parse(&result, message);
}

/* A message if there is one. */
static inline bool mailbox_poll(struct message *message)
{
	struct call result = hypercall(FFA_MSG_POLL, 0, 0, 0, 0);

	return mailbox_parse(&result, message);
}

static inline void mailbox_release(void)
{
	hypercall(FFA_RX_RELEASE, 0, 0, 0, 0);
}

/* Send mailbox_tx once: 0, or an FF-A error code. flags: FFA_MSG_SEND_NOTIFY or 0. */
static inline s32 mailbox_send(u32 to, u32 size, u64 flags)
{
	struct call result = hypercall(FFA_MSG_SEND, (u64)mailbox_self << 16 | to, 0, size, flags);

	return ffa_error(&result);
}

/* Send mailbox_tx, yielding while the receiver's mailbox is full: 0, or why it can never be
 * delivered. For guests that enable no interrupts and owe no other VM an answer. */
s32 mailbox_send_yielding(u32 to, u32 size);

/* Write {ports swapped, text} to mailbox_tx; returns the message's size. */
u32 mailbox_compose(const struct ports *ports, const void *payload, size_t size);

#endif
