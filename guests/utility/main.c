/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * utility: all utility services, and commands that bring them into trouble: it hibernates, or
 * sleeps, with a request buffered, in RX, or half answered; it answers nothing; its daemons crash.
 *
 * One vCPU, interrupts masked throughout: one ends MSG_WAIT, and is then asked for.
 */
#include "boot.h"
#include "log.h"
#include "string.h"
#include "text.h"
#include "utility.h"

#define PORT_TEXT 1
#define SERVICES 6
#define GENERATION_SIZE 16U

enum place { NOWHERE, NOW, IN_RX, BUFFERED, HALF };

const char guest_name[] = "utility";

static struct service services[SERVICES];
static struct answer answer;
static enum place sleep_at;
static u64 sleep_ms;
static bool hibernates; /* or it sleeps as one that is busy does, and the host does not know */
static u64 mute; /* requests that will have no answer */
static struct ports asker; /* who had us ask the host */

/* One message, out of RX, and what follows its text. */
static struct {
	struct ports ports;
	u8 payload[PAYLOAD_MAX + 1];
} __attribute__((aligned(8))) in;

static void *out(void)
{
	*(struct ports *)mailbox_tx = (struct ports){SERVICE_PORT, SERVICE_PORT};
	return mailbox_tx + sizeof(struct ports);
}

static void send(u32 size)
{
	(void)mailbox_send_yielding(PRIMARY_ID, (u32)sizeof(struct ports) + size);
}

static void offer_all(void)
{
	for (u32 i = 0; i < SERVICES; i++)
		send(service_offer(&services[i], out()));
}

static void goodbye_all(enum service_end why)
{
	for (u32 i = 0; i < SERVICES; i++)
		send(service_goodbye(&services[i], why, out()));
}

static void say(u32 to, const struct ports *ports, const char *text)
{
	(void)mailbox_send_yielding(to, mailbox_compose(ports, text, strlen(text)));
}

/* The generation id in hexadecimal, as the host has it in its memory. */
static void generation(char *to, size_t size)
{
	const volatile u8 *id = (const volatile u8 *)memory.generation;
	size_t used = 0;

	if (!id) {
		format(to, size, "no generation id");
		return;
	}
	for (u32 i = 0; i < GENERATION_SIZE; i++)
		used += format(to + used, size - used, "%x%x", id[i] >> 4, id[i] & 15);
}

static void tell_generation(void)
{
	char text[2 * GENERATION_SIZE + 1];

	generation(text, sizeof(text));
	log_line("utility: generation %s", text);
}

static void taken(u32 intid)
{
	if (memory.generation && intid == memory.generation_intid)
		tell_generation();
}

static void forget_interrupts(void)
{
	for (u32 intid; (intid = hf_interrupt_get()) != HF_INTID_INVALID;)
		taken(intid);
}

/* Sleep until an interrupt comes that is enabled. */
static void wait_for(u32 wanted)
{
	for (u32 intid; (intid = hf_interrupt_get()) != wanted;)
		if (intid == HF_INTID_INVALID)
			arch_wait_for_interrupt();
		else
			taken(intid);
}

static void go_to_sleep(void)
{
	sleep_at = NOWHERE;
	if (hibernates) {
		thaw();
		files_cancel();
		goodbye_all(SERVICE_HIBERNATE);
	}
	log_line("utility: asleep");
	forget_interrupts();
	arch_timer_start(arch_counter() + arch_counter_frequency() / 1000 * sleep_ms);
	wait_for(HF_INTID_VIRTUAL_TIMER);
	arch_timer_stop();
	log_line("utility: awake");
	if (hibernates)
		offer_all();
}

/* Services. */

static void tell_asker(const struct service_message *message)
{
	char text[256];

	if (message->flag == SERVICE_OK)
		format(text, sizeof(text), "ok %.*s", (int)message->length, (const char *)message->body);
	else
		format(text, sizeof(text), "status %u", message->flag);
	say(PRIMARY_ID, &asker, text);
}

static void handle_request(const struct service_message *request)
{
	if (mute) {
		mute--;
		return;
	}
	serve(request, &answer);
	if (sleep_at == HALF)
		go_to_sleep();
	send(service_reply(request, answer.status, answer.body, answer.size, out()));
}

static void handle_service(u32 size)
{
	const struct service_message *message = service_parse(in.payload, size);
	struct service *service;

	if (!message || !message->service || message->service > SERVICES)
		return;
	if (message->kind == SERVICE_REQUEST && sleep_at == BUFFERED)
		go_to_sleep();
	service = &services[message->service - 1];
	switch (service_receive(service, message)) {
	case SERVICE_SERVE:
		handle_request(message);
		break;
	case SERVICE_ANSWERED:
		tell_asker(message);
		break;
	case SERVICE_GONE:
		say(PRIMARY_ID, &asker, "gone");
		break;
	case SERVICE_NOTHING:
		break;
	}
}

/* Commands. */

static bool ask(const struct ports *ports, u8 op, const char *text)
{
	struct service *service = &services[SERVICE_KVP - 1];
	struct kvp *request = (struct kvp *)answer.body;
	size_t size = strlen(text), length = 0;

	if (service->state != SERVICE_READY || service->asking)
		return false;
	while (length < size && text[length] != ' ')
		length++;
	*request = (struct kvp){.op = op, .length = (u16)length};
	memcpy(request->bytes, text, length);
	if (op == KVP_SET && length < size) {
		length++;
		memcpy(request->bytes + length - 1, text + length, size - length);
		size--;
	} else {
		size = length;
	}
	asker = *ports;
	send(service_ask(service, request, (u32)(sizeof(*request) + size), out()));
	return true;
}

static void state(char *to, size_t size)
{
	u64 ready = 0, stale = 0, dropped = 0;

	for (u32 i = 0; i < SERVICES; i++) {
		ready += services[i].state == SERVICE_READY;
		stale += services[i].stale;
		dropped += services[i].dropped;
	}
	format(to, size, "ready %lu frozen %d stale %lu dropped %lu mute %lu time %lu", ready,
	       guest.frozen, stale, dropped, mute, guest.time);
}

static bool arm(const char *text, bool hibernate)
{
	enum place place = NOWHERE;
	u64 ms;

	if (text_word(&text, "now"))
		place = NOW;
	else if (text_word(&text, "rx"))
		place = IN_RX;
	else if (text_word(&text, "buffered"))
		place = BUFFERED;
	else if (text_word(&text, "half"))
		place = HALF;
	if (place == NOWHERE || !text_number(&text, &ms) || ms > 1000000)
		return false;
	sleep_at = place;
	sleep_ms = ms;
	hibernates = hibernate;
	if (place == IN_RX) { /* what was pending before means nothing */
		hf_interrupt_enable(HF_INTID_MAILBOX_READABLE, true);
		forget_interrupts();
	}
	return true;
}

static void command(u32 sender, const char *text)
{
	static char said[4096];
	struct ports ports = in.ports;
	bool crash = false;

	format(said, sizeof(said), "files, state, hibernate PLACE MS, nap PLACE MS, mute N, "
				   "crash, get KEY, set KEY VALUE, generation");
	if (text_word(&text, "files")) {
		files_list(said, sizeof(said));
	} else if (text_word(&text, "state")) {
		state(said, sizeof(said));
	} else if (text_word(&text, "generation")) {
		generation(said, sizeof(said));
	} else if (text_word(&text, "hibernate")) {
		if (arm(text, true))
			format(said, sizeof(said), "armed");
	} else if (text_word(&text, "nap")) {
		if (arm(text, false))
			format(said, sizeof(said), "armed");
	} else if (text_word(&text, "mute")) {
		if (text_number(&text, &mute))
			format(said, sizeof(said), "mute");
	} else if (text_word(&text, "crash")) {
		crash = true;
		format(said, sizeof(said), "crashed");
	} else if (text_word(&text, "get")) {
		if (ask(&ports, KVP_GET, text))
			return;
		format(said, sizeof(said), "busy");
	} else if (text_word(&text, "set")) {
		if (ask(&ports, KVP_SET, text))
			return;
		format(said, sizeof(said), "busy");
	}
	say(sender, &ports, said);
	if (sleep_at == NOW)
		go_to_sleep();
	if (crash)
		offer_all();
}

static void handle(const struct message *message)
{
	u32 size = message->size - (u32)sizeof(in.ports);

	if (message->size < sizeof(in.ports)) {
		mailbox_release();
		return;
	}
	memcpy(&in, mailbox_rx, message->size);
	mailbox_release();
	if (message->sender == PRIMARY_ID && in.ports.destination == SERVICE_PORT) {
		handle_service(size);
	} else if (in.ports.destination == PORT_TEXT) {
		text_end((char *)in.payload, size);
		command(message->sender, (const char *)in.payload);
	}
}

void guest_main(void)
{
	struct message message;

	for (u32 i = 0; i < SERVICES; i++)
		services[i] = (struct service){.id = (u8)(i + 1), .lowest = 1, .highest = 1};
	keys_open();
	mailbox_open();
	hf_interrupt_enable(HF_INTID_VIRTUAL_TIMER, true);
	log_line("utility: up");
	if (memory.generation) {
		hf_interrupt_enable(memory.generation_intid, true);
		tell_generation();
	}
	offer_all();
	while (!guest.down) {
		if (sleep_at == IN_RX) {
			wait_for(HF_INTID_MAILBOX_READABLE);
			hf_interrupt_enable(HF_INTID_MAILBOX_READABLE, false);
			go_to_sleep();
		}
		if (guest.frozen)
			arch_timer_start(guest.thaw_at);
		if (mailbox_wait(&message))
			handle(&message);
		else
			forget_interrupts();
		if (guest.frozen && arch_counter() >= guest.thaw_at)
			thaw();
	}
	goodbye_all(SERVICE_EXIT);
	log_line("utility: down");
	for (;;)
		arch_cpu_off();
}
