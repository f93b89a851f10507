/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Sending from threads: one at a time has the TX page, and keeps it, asleep, while its receiver
 * is busy.
 */
#include "boot.h"
#include "log.h"
#include "thread.h"
#include "trusty.h"

static bool tx_taken;
static struct queue tx_waiters;
static struct queue writable_waiters;
static bool writable; /* a receiver became writable since the last refusal */

void send_init(void)
{
	hf_interrupt_enable(HF_INTID_MAILBOX_WRITABLE, true);
}

void send_writable(void)
{
	while (hf_mailbox_writable_get() >= 0)
		;
	writable = true;
	thread_wake_all(&writable_waiters);
}

void send_answer(u32 to, const struct ports *ports, const void *payload, size_t size)
{
	/* Masked throughout: an interrupt between the refusal and thread_block() would be the
	 * wake-up this thread then waits for. */
	bool unmasked = arch_irq_save();
	s32 error;
	u32 bytes;

	while (tx_taken)
		thread_block(&tx_waiters);
	tx_taken = true;
	bytes = mailbox_compose(ports, payload, size);
	for (;;) {
		writable = false;
		error = mailbox_send(to, bytes, FFA_MSG_SEND_NOTIFY);
		if (error != FFA_BUSY)
			break;
		counters.busy++;
		while (!writable)
			thread_block(&writable_waiters);
	}
	if (error)
		log_line("trusty: answer to vm %u lost: error %d", to, error);
	counters.sent++;
	tx_taken = false;
	thread_wake(&tx_waiters);
	arch_irq_restore(unmasked);
}
