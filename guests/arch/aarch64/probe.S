/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Single instructions that fault, for the guest that provokes faults.
 *
 * Each probe is a function that returns 0. The fault handler returns from it in its
 * place, with 1: probes keep x30 and use no stack, so that is all it takes.
 */
	.text

	.macro probe name
	.global	\name
	.type \name, %function
\name:
	.endm

	/* arch_probe_read(u64 address): 32 bits */
	probe	arch_probe_read
	ldr	w1, [x0]
	mov	x0, #0
	ret

	/* arch_probe_write(u64 address, u64 value): 32 bits */
	probe	arch_probe_write
	str	w1, [x0]
	mov	x0, #0
	ret

	/* arch_probe_exec(u64 address): a RET there comes straight back. */
	probe	arch_probe_exec
	mov	x1, x0
	mov	x0, #0
	br	x1

	/* arch_probe_undef(void) */
	probe	arch_probe_undef
	udf	#0
	mov	x0, #0
	ret

	/* arch_probe_svc(void) */
	probe	arch_probe_svc
	svc	#0
	mov	x0, #0
	ret

	/* arch_probe_align(void): an exclusive load must be aligned, regardless of SCTLR. */
	probe	arch_probe_align
	adrp	x1, vectors
	add	x1, x1, :lo12:vectors
	add	x1, x1, #1
	ldxr	x2, [x1]
	clrex
	mov	x0, #0
	ret

	/* Registers that belong to the machine's owner: debug, performance monitor, LOR. */
	probe	arch_probe_debug
	mrs	x1, mdscr_el1
	mov	x0, #0
	ret

	probe	arch_probe_pmu
	mrs	x1, pmcr_el0
	mov	x0, #0
	ret

	probe	arch_probe_gic
	mrs	x1, s3_0_c12_c12_4	/* ICC_CTLR_EL1 */
	mov	x0, #0
	ret

	probe	arch_probe_lor
	mrs	x1, s3_0_c10_c4_3	/* LORC_EL1 */
	mov	x0, #0
	ret

/* void arch_die(void): no vectors, then a fault, then a fault in the vector, for ever. */
	.global	arch_die
	.type arch_die, %function
arch_die:
	mov	x0, #0x7ffff00000	/* inside the map, outside any VM's memory */
	msr	vbar_el1, x0
	isb
	ldr	x1, [x0]
	b	.
	.size	arch_die, . - arch_die
