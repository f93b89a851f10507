/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Where a vCPU begins: 64-bit mode, privilege level 0, interrupts masked, an identity map
 * that is not the guest's, no stack, RDI = what the VM was given (the address of an FDT, or
 * the size of its memory).
 */

	.section .head, "ax"

/*
 * The header of docs/x86-abi.md: 64 bytes, laid out as arm64's. The entry point is its first
 * byte. text_offset is 0: the image is entered at the first byte of the VM's memory.
 */
	.global image_start
	.type image_start, @function
image_start:
	jmp	start
	.balign	8, 0
	.quad	0			/* text_offset */
	.quad	image_size
	.quad	0xa			/* flags: page size 4K (1 << 1), anywhere (1 << 3) */
	.quad	0, 0, 0
	.ascii	"HFX\x64"
	.long	0
	.size	image_start, . - image_start

	.text

	.type start, @function
start:
	movq	%rdi, %r12

	/* A loader may have left anything where .bss is. */
	cld
	leaq	bss_start(%rip), %rdi
	leaq	image_end(%rip), %rcx
	subq	%rdi, %rcx
	shrq	$3, %rcx
	xorl	%eax, %eax
	rep stosq

	/*
	 * Relocate: the image was linked at 0, so what every RELATIVE entry
	 * {offset, info, addend} wants is the address the image is at, added.
	 * Any other kind of entry is a mistake of the build: stop here.
	 */
	leaq	image_start(%rip), %rbx
	leaq	rela_start(%rip), %rsi
	leaq	rela_end(%rip), %rdx
1:	cmpq	%rdx, %rsi
	jae	3f
	movq	(%rsi), %rdi
	cmpl	$8, 8(%rsi)		/* R_X86_64_RELATIVE */
2:	jne	2b
	movq	16(%rsi), %rax
	addq	%rbx, %rax
	movq	%rax, (%rbx, %rdi)
	addq	$24, %rsi
	jmp	1b

3:	leaq	boot_stack_top(%rip), %rsp
	call	fill_vector_table
	call	set_up_cpu
	movq	%r12, %rdi
	xorl	%ebp, %ebp
	pushq	%rbp			/* as if called: boot has nowhere to return to */
	jmp	boot
	.size	start, . - start

/* Every vCPU's own registers: segments and vectors. */
	.type set_up_cpu, @function
set_up_cpu:
	lgdt	segments_pointer(%rip)
	lidt	vectors_pointer(%rip)
	movl	$16, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	popq	%rax
	pushq	$8
	pushq	%rax
	lretq				/* to the caller, in the new code segment */
	.size	set_up_cpu, . - set_up_cpu

/*
 * Where PSCI CPU_ON starts another vCPU, with RDI = the address of
 * struct secondary {stack top, function, argument}.
 */
	.global secondary_start
	.type secondary_start, @function
secondary_start:
	movq	(%rdi), %rsp
	movq	8(%rdi), %rbx
	movq	16(%rdi), %r12
	andq	$-16, %rsp
	call	set_up_cpu
	call	arch_mmu_enable
	movq	%r12, %rdi
	xorl	%ebp, %ebp
	pushq	%rbp
	jmp	*%rbx
	.size	secondary_start, . - secondary_start

/* A vCPU started with this as its entry point turns itself off at once. */
	.global arch_cpu_park
	.type arch_cpu_park, @function
arch_cpu_park:
	movl	$0x84000002, %eax	/* PSCI CPU_OFF */
	outl	%eax, $0x53
	jmp	.
	.size	arch_cpu_park, . - arch_cpu_park

	/* The accessed bits are set already, so that no processor has to write here. */
	.section .data
	.balign	8
segments:
	.quad	0
	.quad	0x00af9b000000ffff	/* 8: code, 64 bits */
	.quad	0x00cf93000000ffff	/* 16: data */
segments_end:

	.balign	8
	.skip	6
segments_pointer:
	.word	segments_end - segments - 1
	.quad	segments

	.balign	8
	.skip	6
vectors_pointer:
	.word	33 * 16 - 1
	.quad	vector_table

	.section .bss.boot_stack, "aw", @nobits
	.balign	16
	.skip	16384
boot_stack_top:
