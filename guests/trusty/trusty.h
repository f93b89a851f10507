/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The parts of the trusty guest.
 */
#ifndef TRUSTY_H
#define TRUSTY_H

#include "mailbox.h"

#define PORT_SMC 0
#define PORT_TEXT 1

#define TRUSTY_VERSION "hfsched trusty guest 1"

/* A message on port 0, both ways; in an answer r[0] is the result and the rest is 0. */
struct smc_message {
	u64 id;
	u64 r[4];
};

/* What a worker is given: a message, copied out of the mailbox. */
struct job {
	struct job *next;
	u32 sender;
	u32 size; /* of the payload */
	struct ports ports;
	u8 payload[PAYLOAD_MAX + 1]; /* and the 0 that ends a text */
};

struct counters {
	u64 received, sent, busy, fast, standard, text, interrupts;
};

extern struct counters counters;

/* send.c: never gives up on a busy receiver; sleeps meanwhile. */
void send_init(void);
void send_answer(u32 to, const struct ports *ports, const void *payload, size_t size);
void send_writable(void); /* from the interrupt's handler */

/* smc.c: the results of calls; no side of it blocks. */
bool smc_is_fast(u64 function);
u64 smc_fast(const u64 r[4]);
u64 smc_standard(const u64 r[4]);

/* commands.c: handle one text, and answer it. */
void text_command(struct job *job);

#endif
