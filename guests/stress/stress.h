/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The parts of the stress guest.
 */
#ifndef STRESS_H
#define STRESS_H

#include "mailbox.h"

#define PORT_TEXT 1
#define PORT_DATA 2
#define PORT_CONTROL 3

#define VMS 64	 /* ids below this are known */
#define WINDOW 4 /* messages a peer may have from us without its acknowledgement */

#define MAGIC_DATA 0x61746164U	  /* "data" */
#define MAGIC_ACK 0x206b6361U	  /* "ack " */
#define MAGIC_HELLO 0x6f6c6c65U	  /* "ello" */
#define MAGIC_WELCOME 0x636c6577U /* "welc" */

/* On port 2 MAGIC_DATA, followed by bytes; on port 3 the other three, alone.
 * crc: of the first three words and the bytes behind this header, as it was sent; in
 * an acknowledgement, what the receiver computed; else 0. seq of a HELLO: the first to come. */
struct packet {
	u32 magic;
	u32 from;
	u32 seq;
	u32 crc;
};

#define BYTES_MAX (PAYLOAD_MAX - sizeof(struct packet))

/* out.c: what waits to be sent. Nothing here blocks. */
void out_control(u32 to, const struct packet *packet);
void out_forget(u32 magic); /* drop what waits of this kind */
void out_text(u32 to, const struct ports *ports, const char *text);
/* Send what can be sent of those; true if something was. */
bool out_pump(void);
bool out_is_blocked(u32 to);
void out_refused(u32 to); /* a send to it came back BUSY */
void out_writable(void);  /* ask which receivers no longer are */

/* traffic.c */
struct traffic {
	u64 sent, acked, received, bad;
};

extern struct traffic traffic;

/* A go of count messages to the VMs listed, or to all there are when vm_count is 0. */
void traffic_start(u32 client, const struct ports *ports, u64 seed, u64 count, const u32 *vms,
		   unsigned int vm_count);
bool traffic_busy(void);
/* Handle a message of another VM, still in the mailbox. */
void traffic_receive(u32 from, const void *payload, u32 size);
/* Send one message more if that is possible now; true if it was. */
bool traffic_pump(void);
/* The timer: peers that have not said hello by now are none. */
void traffic_timeout(void);

/* fill.c: the memory behind the image. */
size_t fill_write(u64 seed, char *answer, size_t size);
size_t fill_check(u64 seed, char *answer, size_t size);

#endif
