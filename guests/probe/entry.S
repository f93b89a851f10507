/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Keep the registers of the first instruction, before start.S sets its own.
 */
#ifdef __aarch64__

	.macro keep registers:vararg
	.irp	register, \registers
	mrs	x1, \register
	str	x1, [x0], #8
	.endr
	.endm

	.text
	.global	image_entry
	.type image_entry, %function
image_entry:
	msr	tpidr_el0, x0		/* the one place there is: its own value is lost */
	adrp	x0, probe_entry
	add	x0, x0, :lo12:probe_entry
	stp	x1, x2, [x0, #8]
	stp	x3, x4, [x0, #24]
	stp	x5, x6, [x0, #40]
	stp	x7, x8, [x0, #56]
	stp	x9, x10, [x0, #72]
	stp	x11, x12, [x0, #88]
	stp	x13, x14, [x0, #104]
	stp	x15, x16, [x0, #120]
	stp	x17, x18, [x0, #136]
	stp	x19, x20, [x0, #152]
	stp	x21, x22, [x0, #168]
	stp	x23, x24, [x0, #184]
	stp	x25, x26, [x0, #200]
	stp	x27, x28, [x0, #216]
	stp	x29, x30, [x0, #232]
	mrs	x1, tpidr_el0
	str	x1, [x0]
	mov	x1, sp
	str	x1, [x0, #248]
	add	x0, x0, #256
	keep	CurrentEL, daif, spsel, nzcv, mpidr_el1, sctlr_el1, cpacr_el1, vbar_el1
	keep	ttbr0_el1, ttbr1_el1, tcr_el1, mair_el1, amair_el1, contextidr_el1, tpidr_el1, sp_el0
	keep	esr_el1, far_el1, elr_el1, spsr_el1, afsr0_el1, afsr1_el1, par_el1, csselr_el1
	keep	cntv_ctl_el0, cntv_cval_el0, cntkctl_el1, cntfrq_el0, tpidrro_el0, midr_el1, ctr_el0, dczid_el0
	mrs	x0, tpidr_el0
	b	start
	.size	image_entry, . - image_entry

	/* Not .bss, which start.S clears. */
	.section .data
	.balign	8
	.global	probe_entry
probe_entry:
	.fill	64, 8, 0
#endif
