/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * stress: seeded random traffic with checksums, and a memory checker. One loop that never waits
 * for a particular thing, so that two guests which send to each other always drain each other.
 */
#include "boot.h"
#include "log.h"
#include "stress.h"
#include "string.h"
#include "text.h"

const char guest_name[] = "stress";

static bool timer_expired;

void guest_interrupt(u32 intid)
{
	if (intid == HF_INTID_MAILBOX_WRITABLE)
		out_writable();
	else if (intid == HF_INTID_VIRTUAL_TIMER)
		timer_expired = true;
}

static void go(u32 sender, const struct ports *ports, const char *arguments)
{
	u64 seed, count, vm;
	u32 vms[VMS];
	unsigned int vm_count = 0;

	if (!text_number(&arguments, &seed) || !text_number(&arguments, &count)) {
		out_text(sender, ports, "go SEED COUNT [VM...]");
		return;
	}
	if (traffic_busy()) {
		out_text(sender, ports, "busy");
		return;
	}
	while (vm_count < VMS && text_number(&arguments, &vm))
		vms[vm_count++] = (u32)vm;
	traffic_start(sender, ports, seed, count, vms, vm_count);
}

static void command(u32 sender, const struct ports *ports, const char *text)
{
	char answer[128];
	u64 seed;

	if (text_word(&text, "go")) {
		go(sender, ports, text);
		return;
	}
	if (text_word(&text, "status"))
		format(answer, sizeof(answer), "sent %lu acked %lu received %lu bad %lu%s",
		       traffic.sent, traffic.acked, traffic.received, traffic.bad,
		       traffic_busy() ? " busy" : "");
	else if (text_word(&text, "fill") && text_number(&text, &seed))
		fill_write(seed, answer, sizeof(answer));
	else if (text_word(&text, "check") && text_number(&text, &seed))
		fill_check(seed, answer, sizeof(answer));
	else
		format(answer, sizeof(answer), "go SEED COUNT [VM...], status, fill SEED, "
					       "check SEED");
	out_text(sender, ports, answer);
}

static void receive(const struct message *message)
{
	static char text[PAYLOAD_MAX + 1];
	const struct ports *ports = (const struct ports *)mailbox_rx;

	if (message->size >= sizeof(*ports)) {
		u32 size = message->size - (u32)sizeof(*ports);

		if (message->sender != PRIMARY_ID) {
			traffic_receive(message->sender, ports + 1, size);
		} else if (ports->destination == PORT_TEXT) {
			struct ports copied = *ports;

			memcpy(text, ports + 1, size);
			text_end(text, size);
			mailbox_release();
			command(message->sender, &copied, text);
			return;
		}
	}
	mailbox_release();
}

void guest_main(void)
{
	struct message message;

	mailbox_open();
	hf_interrupt_enable(HF_INTID_MAILBOX_WRITABLE, true);
	hf_interrupt_enable(HF_INTID_VIRTUAL_TIMER, true);
	log_line("stress: up, vm %u, %lu KiB", mailbox_self, memory.size / 1024);
	for (;;) {
		/* Receive first: a mailbox that is emptied unblocks its senders. */
		if (mailbox_poll(&message)) {
			receive(&message);
			continue;
		}
		if (out_pump() || traffic_pump() || out_pump())
			continue;
		if (mailbox_wait(&message))
			receive(&message);
		else
			arch_irq_window();
		if (timer_expired) {
			timer_expired = false;
			traffic_timeout();
		}
	}
}
