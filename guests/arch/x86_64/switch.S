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
	.type arch_switch, @function
arch_switch:
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	ret
	.size	arch_switch, . - arch_switch

/* A new thread's first return lands here: rbx = function, r12 = argument. */
	.global	arch_thread_begin
	.type arch_thread_begin, @function
arch_thread_begin:
	movq	%r12, %rdi
	call	*%rbx
	jmp	.			/* a thread's function does not return */
	.size	arch_thread_begin, . - arch_thread_begin
