/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Queues of what waits to be sent. A receiver that was busy is passed over until the hypervisor
 * says it is writable, so none holds up the others.
 */
#include "boot.h"
#include "log.h"
#include "stress.h"
#include "string.h"

#define CONTROLS (VMS * (WINDOW + 2)) /* acknowledgements, HELLO and WELCOME of every peer */
#define TEXTS 32
#define TEXT_MAX 128

static struct control {
	u32 to;
	struct packet packet;
} controls[CONTROLS];

static struct answer {
	u32 to;
	struct ports ports;
	char text[TEXT_MAX];
} texts[TEXTS];

static unsigned int control_count, text_count;
static bool blocked[VMS];

void out_control(u32 to, const struct packet *packet)
{
	if (control_count == CONTROLS) {
		/* More than the window allows: a peer violates the protocol. */
		traffic.bad++;
		return;
	}
	controls[control_count++] = (struct control){to, *packet};
}

void out_forget(u32 magic)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < control_count; i++)
		if (controls[i].packet.magic != magic)
			controls[kept++] = controls[i];
	control_count = kept;
}

void out_text(u32 to, const struct ports *ports, const char *text)
{
	struct answer *answer = &texts[text_count];

	if (text_count == TEXTS) {
		log_line("stress: too many answers wait; lost: %s", text);
		return;
	}
	text_count++;
	answer->to = to;
	answer->ports = *ports;
	format(answer->text, TEXT_MAX, "%s", text);
}

bool out_is_blocked(u32 to)
{
	return blocked[to];
}

void out_refused(u32 to)
{
	blocked[to] = true;
}

void out_writable(void)
{
	s64 vm;

	while ((vm = hf_mailbox_writable_get()) >= 0)
		if (vm < VMS)
			blocked[vm] = false;
}

/* Send mailbox_tx unless the receiver is known to be busy; false if it is. */
static bool try_send(u32 to, u32 size)
{
	s32 error = mailbox_send(to, size, FFA_MSG_SEND_NOTIFY);

	if (error == FFA_BUSY) {
		out_refused(to);
		return false;
	}
	if (error)
		log_line("stress: send to vm %u: error %d", to, error);
	return true;
}

bool out_pump(void)
{
	/* In order for each receiver: the first that can go, goes. */
	for (unsigned int i = 0; i < control_count; i++) {
		const struct ports ports = {PORT_CONTROL, PORT_CONTROL};
		struct control *c = &controls[i];
		u32 size;

		if (blocked[c->to])
			continue;
		size = mailbox_compose(&ports, &c->packet, sizeof(c->packet));
		if (!try_send(c->to, size))
			continue;
		memmove(c, c + 1, (--control_count - i) * sizeof(*c));
		return true;
	}
	for (unsigned int i = 0; i < text_count; i++) {
		struct answer *a = &texts[i];
		u32 size;

		if (blocked[a->to])
			continue;
		size = mailbox_compose(&a->ports, a->text, strlen(a->text));
		if (!try_send(a->to, size))
			continue;
		memmove(a, a + 1, (--text_count - i) * sizeof(*a));
		return true;
	}
	return false;
}
