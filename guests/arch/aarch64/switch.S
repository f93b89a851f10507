/* SPDX-License-Identifier: MIT OR Apache-2.0 */

/*
 * void arch_switch(void **save_sp, void *load_sp)
 *
 * Leave the caller's registers on its stack, its stack pointer in *save_sp,
 * and come back as the thread whose stack pointer is load_sp. Called with
 * interrupts masked; what each thread had unmasked is its own business.
 * arch_thread_prepare() builds the same layout for a thread that never ran.
 */
	.text
	.global	arch_switch
	.type arch_switch, %function
arch_switch:
	stp	x29, x30, [sp, #-96]!
	stp	x19, x20, [sp, #16]
	stp	x21, x22, [sp, #32]
	stp	x23, x24, [sp, #48]
	stp	x25, x26, [sp, #64]
	stp	x27, x28, [sp, #80]
	mov	x9, sp
	str	x9, [x0]
	mov	sp, x1
	ldp	x19, x20, [sp, #16]
	ldp	x21, x22, [sp, #32]
	ldp	x23, x24, [sp, #48]
	ldp	x25, x26, [sp, #64]
	ldp	x27, x28, [sp, #80]
	ldp	x29, x30, [sp], #96
	ret
	.size	arch_switch, . - arch_switch

/* A new thread's first return lands here: x19 = function, x20 = argument. */
	.global	arch_thread_begin
	.type arch_thread_begin, %function
arch_thread_begin:
	mov	x0, x20
	blr	x19
	b	.			/* a thread's function does not return */
	.size	arch_thread_begin, . - arch_thread_begin
