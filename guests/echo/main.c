/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * echo: every message goes back to its sender with the ports swapped. No interrupt is ever
 * enabled, so a scheduler that loses the wake-up of a VM in MSG_WAIT is found out at once.
 *
 * The loop is benchmarked: one copy, and MSG_WAIT, RX_RELEASE, MSG_SEND for each message.
 */
#include "boot.h"
#include "log.h"
#include "mailbox.h"
#include "string.h"

const char guest_name[] = "echo";

void guest_main(void)
{
	const struct ports *in = (const struct ports *)mailbox_rx;
	struct message message;

	mailbox_open();
	log_line("echo: up");
	for (;;) {
		u32 copied;

		if (!mailbox_wait(&message))
			continue;
		if (message.size >= sizeof(*in)) {
			copied = mailbox_compose(in, in + 1, message.size - sizeof(*in));
		} else {
			memcpy(mailbox_tx, mailbox_rx, message.size);
			copied = message.size;
		}
		mailbox_release();
		/* A sender that is gone gets no answer; no VM is left to report to. */
		(void)mailbox_send_yielding(message.sender, copied);
	}
}
