/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The parts of the guest utility.
 */
#ifndef UTILITY_H
#define UTILITY_H

#include "mailbox.h"
#include "services.h"

/* The answer to a request, being made. */
struct answer {
	u8 status;
	u32 size;
	u8 body[SERVICE_BODY_MAX] __attribute__((aligned(8)));
};

void answer_say(struct answer *answer, u8 status, const char *text);

/* serve.c: requests. Bodies are as docs/services.md has them; a wrong one is answered, too. */
struct guest {
	bool frozen;
	u64 thaw_at; /* the counter's value at which it thaws by itself */
	u64 time;    /* what the host has told, ns since 1970 */
	bool down;   /* it has agreed to end */
};

extern struct guest guest;

void serve(const struct service_message *request, struct answer *answer);
void thaw(void);

/* keys.c */
enum kvp_op { KVP_GET = 1, KVP_SET, KVP_DELETE, KVP_LIST };

struct kvp {
	u8 op, zero;
	u16 length; /* of the key, which is followed by a value */
	u32 rest;
	u8 bytes[];
};

void keys_open(void);
void keys_serve(const struct kvp *request, u32 size, struct answer *answer);

/* files.c: whole ones, in the memory behind the image. */
enum file_op { FILE_BEGIN = 1, FILE_DATA, FILE_END, FILE_CANCEL };

struct file_request {
	u8 op, zero;
	u16 mode;
	u32 transfer;
	u64 number; /* size, offset or CRC-32 */
	u8 bytes[]; /* name or data */
};

void files_serve(const struct file_request *request, u32 size, struct answer *answer);
void files_cancel(void);
/* Write a line for each file, at most size - 1 bytes and a 0. */
void files_list(char *to, size_t size);

#endif
