/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Random traffic between stress guests.
 *
 * A go first says HELLO to the VMs it is to use, and waits 200 ms at most for the WELCOME of
 * those that are stress guests too; from a peer's HELLO its sequence numbers start anew. Then it
 * sends data, at most WINDOW messages unacknowledged for each peer, which bounds what any guest
 * must remember. The acknowledgement carries the checksum that the receiver computed.
 */
#include "boot.h"
#include "crc32.h"
#include "log.h"
#include "random.h"
#include "stress.h"
#include "string.h"

#define HELLO_MS 200

enum phase {
	IDLE,
	DISCOVER, /* learn which VMs there are */
	GREET,	  /* HELLO sent, WELCOMEs come in */
	SEND,
};

struct traffic traffic;

static struct peer {
	bool greeted; /* HELLO was sent, nothing came back yet */
	bool is_peer;
	u32 next_seq;	  /* of the next message to it */
	u32 acked_seq;	  /* the oldest not acknowledged */
	u32 expected_seq; /* of the next message from it */
	u32 crc[WINDOW];  /* by seq % WINDOW */
} peers[VMS];

static enum phase phase;
static u32 targets[VMS]; /* those that take part in this go */
static unsigned int target_count;
static struct random random;
static u64 left; /* to be sent still */
static u32 client;
static struct ports client_ports;
/* The target of the next message, drawn already but refused. */
static bool drawn;
static u32 drawn_to, drawn_size;
static u64 drawn_seed;

static u32 packet_crc(const struct packet *packet, const void *bytes, size_t size)
{
	return crc32(crc32(0, packet, 3 * sizeof(u32)), bytes, size);
}

bool traffic_busy(void)
{
	return phase != IDLE;
}

static void say_hello(u32 vm)
{
	struct packet hello = {MAGIC_HELLO, mailbox_self, 0, 0};

	if (vm >= VMS || vm == mailbox_self || vm == PRIMARY_ID || peers[vm].greeted)
		return;
	peers[vm].greeted = true;
	peers[vm].is_peer = false;
	peers[vm].next_seq = peers[vm].acked_seq = 0;
	out_control(vm, &hello);
}

/* Everybody answered, or their time is over. */
static void greeting_over(void)
{
	arch_timer_stop();
	/* A HELLO that arrived later would reset the numbers of messages under way. */
	out_forget(MAGIC_HELLO);
	target_count = 0;
	for (u32 vm = 0; vm < VMS; vm++) {
		peers[vm].greeted = false;
		if (peers[vm].is_peer)
			targets[target_count++] = vm;
	}
	phase = SEND;
	if (!target_count) {
		phase = IDLE;
		out_text(client, &client_ports, "no peers");
	}
}

static void greeting_progress(void)
{
	for (u32 vm = 0; vm < VMS; vm++)
		if (peers[vm].greeted)
			return;
	greeting_over();
}

void traffic_timeout(void)
{
	arch_timer_stop();
	if (phase == GREET)
		greeting_over();
}

static void greet(void)
{
	phase = GREET;
	arch_timer_start(arch_counter() + arch_counter_frequency() * HELLO_MS / 1000);
	greeting_progress();
}

/* The list comes in the mailbox: not while a message is there. Then ask again later. */
static bool discover(void)
{
	const struct {
		u16 id;
		u16 vcpus;
		u32 properties;
	} *entry = (const void *)mailbox_rx;
	struct call result = hypercall(FFA_PARTITION_INFO_GET, 0, 0, 0, 0);

	if (ffa_error(&result) == FFA_BUSY)
		return false;
	if (result.r[0] == FFA_SUCCESS) {
		for (u64 i = 0; i < result.r[2] && i < FFA_MSG_MAX / sizeof(*entry); i++)
			say_hello(entry[i].id);
		mailbox_release();
	}
	greet();
	return true;
}

void traffic_start(u32 from, const struct ports *ports, u64 seed, u64 count, const u32 *vms,
		   unsigned int vm_count)
{
	client = from;
	client_ports = *ports;
	left = count;
	traffic = (struct traffic){.received = traffic.received, .bad = traffic.bad};
	drawn = false;
	random_seed(&random, seed);
	for (u32 vm = 0; vm < VMS; vm++)
		peers[vm].is_peer = peers[vm].greeted = false;
	phase = DISCOVER;
	if (vm_count) {
		for (unsigned int i = 0; i < vm_count; i++)
			say_hello(vms[i]);
		greet();
	}
}

static void finish(void)
{
	char text[128];

	phase = IDLE;
	format(text, sizeof(text), "sent %lu acked %lu received %lu bad %lu", traffic.sent,
	       traffic.acked, traffic.received, traffic.bad);
	out_text(client, &client_ports, text);
}

static void wrong(u32 from, const char *what)
{
	traffic.bad++;
	log_line("stress: from vm %u: %s", from, what);
}

static void receive_data(u32 from, const struct packet *packet, const u8 *bytes, u32 size)
{
	struct packet ack = {MAGIC_ACK, mailbox_self, packet->seq, packet_crc(packet, bytes, size)};

	traffic.received++;
	if (ack.crc != packet->crc)
		wrong(from, "checksum");
	if (packet->seq != peers[from].expected_seq)
		wrong(from, "sequence");
	peers[from].expected_seq = packet->seq + 1;
	out_control(from, &ack);
}

static void receive_ack(u32 from, const struct packet *packet)
{
	struct peer *peer = &peers[from];

	if (peer->acked_seq == peer->next_seq || packet->seq != peer->acked_seq) {
		wrong(from, "acknowledgement of nothing sent");
		return;
	}
	if (packet->crc != peer->crc[packet->seq % WINDOW])
		wrong(from, "acknowledgement with another checksum");
	peer->acked_seq++;
	traffic.acked++;
	if (phase == SEND && !left && traffic.acked == traffic.sent)
		finish();
}

static void receive_greeting(u32 from, const struct packet *packet)
{
	if (packet->from == mailbox_self) {
		/* Our own HELLO: an echo is no peer. */
		peers[from].greeted = false;
	} else if (packet->from != from) {
		return; /* passed on by some relay */
	} else if (packet->magic == MAGIC_HELLO) {
		struct packet welcome = {MAGIC_WELCOME, mailbox_self, 0, 0};

		peers[from].expected_seq = packet->seq;
		out_control(from, &welcome);
		return;
	} else if (peers[from].greeted) {
		peers[from].greeted = false;
		peers[from].is_peer = true;
	}
	if (phase == GREET)
		greeting_progress();
}

/* Some other guest made something of our HELLO. */
static void receive_stranger(u32 from)
{
	peers[from].greeted = false;
	if (phase == GREET)
		greeting_progress();
}

void traffic_receive(u32 from, const void *payload, u32 size)
{
	const struct packet *packet = payload;

	if (from >= VMS || size < sizeof(*packet))
		return;
	if (packet->magic == MAGIC_DATA && packet->from == from)
		receive_data(from, packet, (const u8 *)(packet + 1), size - sizeof(*packet));
	else if (packet->magic == MAGIC_ACK && packet->from == from)
		receive_ack(from, packet);
	else if (packet->magic == MAGIC_HELLO || packet->magic == MAGIC_WELCOME)
		receive_greeting(from, packet);
	else if (peers[from].is_peer)
		wrong(from, "no packet of this protocol");
	else
		receive_stranger(from);
}

/* Three draws a message, whenever it can be sent: the traffic depends on the seed alone. */
static void draw(void)
{
	drawn_to = targets[random_below(&random, target_count)];
	drawn_size = random_below(&random, BYTES_MAX + 1);
	drawn_seed = random_next64(&random);
	drawn = true;
}

static u32 compose(void)
{
	const struct ports ports = {PORT_DATA, PORT_DATA};
	struct packet *packet = (struct packet *)(mailbox_tx + sizeof(ports));
	u64 *words = (u64 *)(packet + 1);
	struct random content;

	mailbox_compose(&ports, packet, 0);
	*packet = (struct packet){MAGIC_DATA, mailbox_self, peers[drawn_to].next_seq, 0};
	random_seed(&content, drawn_seed);
	for (u32 i = 0; i < (drawn_size + 7) / 8; i++)
		words[i] = random_next64(&content);
	packet->crc = packet_crc(packet, words, drawn_size);
	peers[drawn_to].crc[packet->seq % WINDOW] = packet->crc;
	return (u32)(sizeof(ports) + sizeof(*packet)) + drawn_size;
}

bool traffic_pump(void)
{
	struct peer *peer;
	s32 error;

	if (phase == DISCOVER)
		return discover();
	if (phase != SEND)
		return false;
	if (!left) {
		if (traffic.acked == traffic.sent)
			finish();
		return false;
	}
	if (!drawn)
		draw();
	peer = &peers[drawn_to];
	if (out_is_blocked(drawn_to) || peer->next_seq - peer->acked_seq == WINDOW)
		return false;
	error = mailbox_send(drawn_to, compose(), FFA_MSG_SEND_NOTIFY);
	if (error == FFA_BUSY) {
		out_refused(drawn_to);
		return false;
	}
	if (error) {
		char text[64];

		format(text, sizeof(text), "vm %u is gone: error %d", drawn_to, error);
		phase = IDLE;
		out_text(client, &client_ports, text);
		return false;
	}
	peer->next_seq++;
	traffic.sent++;
	left--;
	drawn = false;
	return true;
}
