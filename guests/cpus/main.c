/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * cpus: vCPU 0 reads the mailbox; all others work as the message says: they count, so that what
 * happens to the machine meanwhile shows in the count, or turn each other on and off.
 *
 * No interrupt is enabled.
 */
#include "boot.h"
#include "log.h"
#include "mailbox.h"
#include "string.h"
#include "text.h"

#define ANSWER_MAX 128

const char guest_name[] = "cpus";

/* Of one vCPU, which alone writes it while it is on; each has a cache line. */
struct cpu {
	volatile u64 rounds, starts, ended, wrong;
	volatile u64 place; /* written and read back in each round */
	volatile u64 hops;  /* of the token that it was turned on with, itself included */
};

static struct cpu cpus[ARCH_CPUS] __attribute__((aligned(128)));
static u8 stacks[ARCH_CPUS][8192] __attribute__((aligned(16)));
static u32 others; /* vCPUs 1 to this one */

static bool counting;
static bool ring_open;

static void start(u32 index, void (*function)(void *))
{
	if (arch_cpu_on(index, stacks[index] + sizeof(stacks[index]), function, &cpus[index]) != 0)
		cpus[index].wrong++;
}

static bool is_on(u32 index)
{
	return arch_cpu_state(index) == 0;
}

/* The VM may always read RX and write TX, mapped or not; the end of TX is in no message. */
static void count(void *argument)
{
	struct cpu *self = argument;
	volatile u64 *sent = (volatile u64 *)(mailbox_tx + FFA_MSG_MAX) - 1 - (self - cpus);

	while (__atomic_load_n(&counting, __ATOMIC_ACQUIRE)) {
		u64 round = self->rounds + 1;

		self->place = round;
		*sent = round;
		(void)*(volatile u8 *)mailbox_rx;
		if (self->place != round || *sent != round)
			self->wrong++;
		self->rounds = round;
	}
	arch_cpu_off();
}

static void wait_for_all_off(void)
{
	for (u32 i = 1; i <= others; i++)
		while (is_on(i))
			ffa_yield();
}

static void wait_for_a_round_each(void)
{
	for (u32 i = 1; i <= others; i++) {
		u64 before = cpus[i].rounds;

		while (cpus[i].rounds == before)
			ffa_yield();
	}
}

static void count_begin(void)
{
	__atomic_store_n(&counting, true, __ATOMIC_RELEASE);
	for (u32 i = 1; i <= others; i++)
		start(i, count);
	wait_for_a_round_each();
}

static void count_end(void)
{
	__atomic_store_n(&counting, false, __ATOMIC_RELEASE);
	wait_for_all_off();
}

/* A vCPU is turned on by the one before it in the ring alone, once it is off. */
static void pass(u32 to, u64 hops, void (*function)(void *))
{
	while (is_on(to))
		ffa_yield();
	cpus[to].hops = hops;
	start(to, function);
}

static void hop(void *argument)
{
	struct cpu *self = argument;
	u64 hops = self->hops;

	self->starts++;
	while (!__atomic_load_n(&ring_open, __ATOMIC_ACQUIRE))
		ffa_yield();
	if (hops > 1)
		pass((u32)(self - cpus) % others + 1, hops - 1, hop);
	else
		self->ended++;
	arch_cpu_off();
}

static struct cpu sum(void)
{
	struct cpu all = {0};

	for (u32 i = 0; i <= others; i++) {
		all.rounds += cpus[i].rounds;
		all.starts += cpus[i].starts;
		all.ended += cpus[i].ended;
		all.wrong += cpus[i].wrong;
	}
	return all;
}

/* Tokens go from vCPU to vCPU, so often each; with fewer tokens than vCPUs one is always off. */
static void ring(u64 tokens, u64 hops)
{
	u64 ended = sum().ended + tokens;

	__atomic_store_n(&ring_open, false, __ATOMIC_RELEASE);
	for (u32 i = 1; i <= tokens; i++)
		pass(i, hops, hop);
	__atomic_store_n(&ring_open, true, __ATOMIC_RELEASE);
	while (sum().ended < ended)
		ffa_yield();
	wait_for_all_off();
}

static void map(u64 times)
{
	for (; times; times--) {
		struct call result = hypercall(FFA_RXTX_UNMAP, 0, 0, 0, 0);

		if (result.r[0] != FFA_SUCCESS)
			cpus[0].wrong++;
		result = hypercall(FFA_RXTX_MAP, (u64)mailbox_tx, (u64)mailbox_rx, 1, 0);
		if (result.r[0] != FFA_SUCCESS)
			cpus[0].wrong++;
		if (counting)
			wait_for_a_round_each();
	}
}

/* Run one command, or none; what it says goes to the answer. */
static size_t run(const char *text, char *answer)
{
	u64 a, b;
	struct cpu all;

	if (equal(text, "count") && !counting)
		count_begin();
	else if (equal(text, "halt") && counting)
		count_end();
	else if (text_word(&text, "map") && text_number(&text, &a))
		map(a);
	else if (text_word(&text, "ring") && text_number(&text, &a) && text_number(&text, &b) &&
		 a && b && a < others && !counting)
		ring(a, b);
	all = sum();
	return format(answer, ANSWER_MAX, "others %u rounds %lu starts %lu ended %lu wrong %lu", others,
		      all.rounds, all.starts, all.ended, all.wrong);
}

void guest_main(void)
{
	static char command[PAYLOAD_MAX + 1];
	struct message message;

	mailbox_open();
	while (others + 1 < ARCH_CPUS && arch_cpu_state(others + 1) >= 0)
		others++;
	log_line("cpus: up, %u others", others);
	for (;;) {
		struct ports ports;
		char answer[ANSWER_MAX];
		size_t size;

		if (!mailbox_wait(&message))
			continue;
		size = message.size;
		if (size >= sizeof(ports)) {
			memcpy(&ports, mailbox_rx, sizeof(ports));
			size -= sizeof(ports);
			memcpy(command, mailbox_rx + sizeof(ports), size);
			text_end(command, size);
		}
		mailbox_release();
		if (message.size < sizeof(ports))
			continue;
		size = run(command, answer);
		(void)mailbox_send_yielding(message.sender, mailbox_compose(&ports, answer, size));
	}
}
