/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The parts of the hostile guest.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "mailbox.h"

#define PORT_TEXT 1
#define PORT_NOISE 99 /* source port of what random calls happen to send */

/* main.c: keep a message that a call returned in the mailbox for later, and release it. */
void keep_message(const struct message *message);
bool can_keep_message(void);

/* calls.c, memory.c, faults.c: each runs its table, logs what was answered wrongly, and adds to
 * the two counts. */
struct tally {
	u32 checks, wrong;
};

void check_calls(struct tally *tally);
void check_memory_calls(struct tally *tally);
void check_faults(struct tally *tally);
void check_registers(struct tally *tally);

/* chaos.c: returns the number of calls made. ports: where answers go, for stray messages. */
u64 random_calls(u64 seed, u64 count, const struct ports *ports);
/* Make one call, by the firmware's conduit or the usual one, and undo what would keep the guest from
 * answering, as for a random one. */
struct call tidy_call(struct call call, bool firmware);

/* noise.c */
void log_noise(void);
/* False, with the fault, if the device's register cannot be written. */
bool pl011_write(const char *text, struct fault *fault);

#endif
