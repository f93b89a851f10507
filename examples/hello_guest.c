/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A whole guest in one file: it sends every message back.  guests/README.md says how it is built.
 */
#include "hypercalls.h"

static u8 tx[4096] __attribute__((aligned(4096)));
static u8 rx[4096] __attribute__((aligned(4096)));
u8 stack[16384] __attribute__((aligned(16)));

/* The first instruction: there is no stack yet. */
__asm__(".globl _start\n_start: adrp x1, stack + 16384\n mov sp, x1\n b run\n");

static void print(const char *text)
{
	for (; *text; text++)
		hypercall(HF_DEBUG_LOG, (u8)*text, 0, 0, 0);
}

void run(void)
{
	print("hello: up\n");
	hypercall(FFA_RXTX_MAP, (u64)tx, (u64)rx, 1, 0);
	for (;;) {
		struct call got = hypercall(FFA_MSG_WAIT, 0, 0, 0, 0);
		u64 from = got.r[1] >> 16, to = got.r[1] & 0xffff, size = got.r[3];

		if (got.r[0] != FFA_MSG_SEND)
			continue; /* an interrupt */
		for (u64 i = 0; i < size; i++) /* the ports change places, the text stays */
			tx[i] = rx[i < 8 ? i + 8 : i < 16 ? i - 8 : i];
		hypercall(FFA_RX_RELEASE, 0, 0, 0, 0);
		hypercall(FFA_MSG_SEND, to << 16 | from, 0, size, 0);
	}
}
