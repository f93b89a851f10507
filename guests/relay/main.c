/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * relay: passes messages on along the VMs' ids. From a lower id to the next VM, or, where there
 * is none, back with the ports swapped; from a higher id to the one before. A chain
 * relay, relay, echo returns to the host what the host sends.
 *
 * Neighbours that wait for each other's mailbox must not stop each other, so while the head of
 * the queue waits for its receiver the mailbox is still drained, into all the memory behind the
 * image.
 */
#include "boot.h"
#include "log.h"
#include "mailbox.h"
#include "string.h"

const char guest_name[] = "relay";

struct slot {
	u32 to;
	u32 from;
	u32 size;
	u32 unused;
	u8 data[FFA_MSG_MAX];
};

static struct slot *slots;
static size_t slot_count, head, queued;
static bool blocked; /* the receiver of the queue's head was busy when last asked */

/* MAILBOX_WRITABLE, the only one enabled. */
void guest_interrupt(u32 intid)
{
	(void)intid;
	while (hf_mailbox_writable_get() >= 0)
		;
	blocked = false;
}

static void swap_ports(void *message, u32 size)
{
	struct ports *ports = message;
	u64 source = ports->source;

	if (size < sizeof(*ports))
		return;
	ports->source = ports->destination;
	ports->destination = source;
}

/* Where a message from there goes. Going back happens only if this fails. */
static u32 next(u32 from)
{
	if (from < mailbox_self)
		return mailbox_self + 1;
	return mailbox_self > PRIMARY_ID ? mailbox_self - 1 : PRIMARY_ID;
}

/* Send what is in mailbox_tx: 0 also if it can be delivered nowhere, or FFA_BUSY with *to the
 * receiver that is. */
static s32 pass_on(u32 from, u32 *to, u32 size)
{
	s32 error = mailbox_send(*to, size, FFA_MSG_SEND_NOTIFY);

	if (error == FFA_INVALID_PARAMETERS && *to > mailbox_self) {
		/* The end of the chain. */
		*to = mailbox_self - 1;
		swap_ports(mailbox_tx, size);
		error = mailbox_send(*to, size, FFA_MSG_SEND_NOTIFY);
	}
	if (error && error != FFA_BUSY) {
		log_line("relay: from %u to %u: error %d", from, *to, error);
		error = 0;
	}
	blocked = error == FFA_BUSY;
	return error;
}

static void enqueue(u32 from, u32 to, const void *data, u32 size)
{
	struct slot *slot = &slots[(head + queued++) % slot_count];

	slot->from = from;
	slot->to = to;
	slot->size = size;
	memcpy(slot->data, data, size);
}

/* Send the queue's head; false if its receiver is busy. */
static bool send_head(void)
{
	struct slot *slot = &slots[head];

	memcpy(mailbox_tx, slot->data, slot->size);
	if (pass_on(slot->from, &slot->to, slot->size)) {
		/* The ports may have been swapped. */
		memcpy(slot->data, mailbox_tx, slot->size);
		return false;
	}
	head = (head + 1) % slot_count;
	queued--;
	return true;
}

static void receive(const struct message *message)
{
	u32 to = next(message->sender);

	if (queued) {
		enqueue(message->sender, to, mailbox_rx, message->size);
		mailbox_release();
		return;
	}
	memcpy(mailbox_tx, mailbox_rx, message->size);
	mailbox_release();
	if (pass_on(message->sender, &to, message->size))
		enqueue(message->sender, to, mailbox_tx, message->size);
}

static void find_slots(void)
{
	u64 end = memory.fdt ? memory.fdt & ~(PAGE_SIZE - 1) : memory.base + memory.size;

	slots = (struct slot *)image_end;
	slot_count = (end - (u64)image_end) / sizeof(struct slot);
	if (!slot_count)
		boot_stop("no memory for a queue");
}

void guest_main(void)
{
	struct message message;

	find_slots();
	mailbox_open();
	hf_interrupt_enable(HF_INTID_MAILBOX_WRITABLE, true);
	log_line("relay: up, vm %u, room for %lu messages", mailbox_self, slot_count);
	for (;;) {
		while (queued && !blocked && send_head())
			;
		if (queued == slot_count)
			arch_wait_for_interrupt();
		else if (mailbox_wait(&message))
			receive(&message);
		/* After messages too: a mailbox that always refills must not keep the queue. */
		arch_irq_window();
	}
}
