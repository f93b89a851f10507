/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The exception vectors. Guests run in EL1h throughout, so only the second
 * group of four is ever taken; the others say so by their class.
 */

/* struct frame: x0..x30, ELR, SPSR, and 8 bytes that keep the stack aligned. */
#define FRAME_SIZE 272

	.macro vector class
	.balign	128
	sub	sp, sp, #FRAME_SIZE
	stp	x0, x1, [sp]
	mov	x1, #\class
	b	enter
	.endm

	.text
	.balign	2048
	.global	vectors
vectors:
	vector	2		/* EL1t */
	vector	2
	vector	2
	vector	2
	vector	0		/* EL1h: synchronous */
	vector	1		/* IRQ */
	vector	2		/* FIQ */
	vector	2		/* SError */
	vector	2		/* EL0, 64 bits */
	vector	2
	vector	2
	vector	2
	vector	2		/* EL0, 32 bits */
	vector	2
	vector	2
	vector	2

	.type enter, %function
enter:
	stp	x2, x3, [sp, #16]
	stp	x4, x5, [sp, #32]
	stp	x6, x7, [sp, #48]
	stp	x8, x9, [sp, #64]
	stp	x10, x11, [sp, #80]
	stp	x12, x13, [sp, #96]
	stp	x14, x15, [sp, #112]
	stp	x16, x17, [sp, #128]
	stp	x18, x19, [sp, #144]
	stp	x20, x21, [sp, #160]
	stp	x22, x23, [sp, #176]
	stp	x24, x25, [sp, #192]
	stp	x26, x27, [sp, #208]
	stp	x28, x29, [sp, #224]
	mrs	x2, elr_el1
	mrs	x3, spsr_el1
	stp	x30, x2, [sp, #240]
	str	x3, [sp, #256]
	mov	x0, sp
	bl	arch_exception
	/* The handler may have changed where the frame returns to. */
	ldp	x30, x2, [sp, #240]
	ldr	x3, [sp, #256]
	msr	elr_el1, x2
	msr	spsr_el1, x3
	ldp	x2, x3, [sp, #16]
	ldp	x4, x5, [sp, #32]
	ldp	x6, x7, [sp, #48]
	ldp	x8, x9, [sp, #64]
	ldp	x10, x11, [sp, #80]
	ldp	x12, x13, [sp, #96]
	ldp	x14, x15, [sp, #112]
	ldp	x16, x17, [sp, #128]
	ldp	x18, x19, [sp, #144]
	ldp	x20, x21, [sp, #160]
	ldp	x22, x23, [sp, #176]
	ldp	x24, x25, [sp, #192]
	ldp	x26, x27, [sp, #208]
	ldp	x28, x29, [sp, #224]
	ldp	x0, x1, [sp], #FRAME_SIZE
	eret
	.size	enter, . - enter
