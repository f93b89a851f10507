/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The exception vectors, and the one interrupt's: 16 bytes each. Guests stay at privilege level 0,
 * so every vector is taken on the stack in use.
 */

	.text
	.balign	16
	.global	vectors
vectors:
	.set	number, 0
	.rept	33
	.balign	16
	/* The processor pushes an error code for these alone: 8, 10..14, 17, 21, 29, 30. */
	.if	!(0x60227d00 >> number & 1)
	pushq	$0
	.endif
	pushq	$number
	jmp	enter
	.set	number, number + 1
	.endr

	.type enter, @function
enter:
	pushq	%r11
	pushq	%r10
	pushq	%r9
	pushq	%r8
	pushq	%rdi
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	pushq	%rax
	movq	%rsp, %rdi
	cld
	call	arch_exception
	/* The handler may have changed where the frame returns to. */
	popq	%rax
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
	popq	%r8
	popq	%r9
	popq	%r10
	popq	%r11
	addq	$16, %rsp		/* vector and error code */
	iretq
	.size	enter, . - enter
