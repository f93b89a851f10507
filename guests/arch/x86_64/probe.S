/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Single instructions that fault, for the guest that provokes faults.
 *
 * Each probe is a function that returns 0. The fault handler returns from it in its
 * place, with 1: probes leave the return address on top of the stack and keep what a function
 * keeps, so that is all it takes.
 */
	.text

	.macro probe name
	.global	\name
	.type \name, @function
\name:
	.endm

	.macro probe_msr name, number
	probe	\name
	movl	$\number, %ecx
	rdmsr
	xorl	%eax, %eax
	ret
	.endm

	/* arch_probe_read(u64 address): 32 bits */
	probe	arch_probe_read
	movl	(%rdi), %edx
	xorl	%eax, %eax
	ret

	/* arch_probe_write(u64 address, u64 value): 32 bits */
	probe	arch_probe_write
	movl	%esi, (%rdi)
	xorl	%eax, %eax
	ret

	/* arch_probe_exec(u64 address): a RET there comes straight back. */
	probe	arch_probe_exec
	xorl	%eax, %eax
	jmp	*%rdi

	/* arch_probe_undef(void) */
	probe	arch_probe_undef
	ud2
	xorl	%eax, %eax
	ret

	/* arch_probe_svc(void): INT n is not for every engine; a division by zero is as much
	 * the guest's own affair. */
	probe	arch_probe_svc
	xorl	%ecx, %ecx
	xorl	%edx, %edx
	movl	$1, %eax
	divl	%ecx
	xorl	%eax, %eax
	ret

	/* arch_probe_align(void): nothing is checked at privilege level 0. */
	probe	arch_probe_align
	movl	vectors+1(%rip), %edx
	xorl	%eax, %eax
	ret

	/* Registers that belong to the machine's owner. */
	probe_msr arch_probe_debug, 0x1d9	/* IA32_DEBUGCTL */
	probe_msr arch_probe_pmu, 0x38f		/* IA32_PERF_GLOBAL_CTRL */
	probe_msr arch_probe_apic, 0x802	/* IA32_X2APIC_APICID */
	probe_msr arch_probe_vmx, 0x480		/* IA32_VMX_BASIC */

/* void arch_die(void): no vectors, then a fault, which the processor cannot deliver. */
	.global	arch_die
	.type arch_die, @function
arch_die:
	lidt	no_vectors(%rip)
	ud2
	jmp	.
	.size	arch_die, . - arch_die

	.section .rodata
no_vectors:
	.word	0
	.quad	0
