/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Where a vCPU begins: EL1h, DAIF masked, MMU off, x0 = what the VM was given
 * (the address of an FDT, or the size of its memory).
 */

	.section .head, "ax"

/*
 * The arm64 image header of Linux's Documentation/arch/arm64/booting.rst,
 * 64 bytes. code0 is the entry point. text_offset is 0: the image is entered at the
 * first byte of the VM's memory. flags: little-endian, 4 KiB pages, anywhere. A guest that wants the
 * registers as they are then has an image_entry of its own, which ends in a branch to start.
 */
	.weak	image_entry
	.set	image_entry, start
	.global image_start
	.type image_start, %function
image_start:
	b	image_entry
	.word	0
	.quad	0			/* text_offset */
	.quad	image_size
	.quad	0xa			/* flags: page size 4K (1 << 1), anywhere (1 << 3) */
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.word	0
	.size	image_start, . - image_start

	.text

	.global start
	.type start, %function
start:
	mov	x19, x0

	/* A loader may have left anything where .bss is. */
	adrp	x1, bss_start
	add	x1, x1, :lo12:bss_start
	adrp	x2, image_end
	add	x2, x2, :lo12:image_end
1:	cmp	x1, x2
	b.hs	2f
	stp	xzr, xzr, [x1], #16
	b	1b

	/*
	 * Relocate: the image was linked at 0, so what every RELATIVE entry
	 * {offset, info, addend} wants is the address the image is at, added.
	 * Any other kind of entry is a mistake of the build: stop here.
	 */
2:	adrp	x3, image_start
	adrp	x1, rela_start
	add	x1, x1, :lo12:rela_start
	adrp	x2, rela_end
	add	x2, x2, :lo12:rela_end
3:	cmp	x1, x2
	b.hs	4f
	ldp	x4, x5, [x1], #16
	ldr	x6, [x1], #8
	cmp	w5, #1027		/* R_AARCH64_RELATIVE */
	b.ne	.
	add	x6, x6, x3
	str	x6, [x4, x3]
	b	3b

4:	adrp	x1, boot_stack_top
	add	x1, x1, :lo12:boot_stack_top
	mov	sp, x1
	bl	set_up_cpu
	mov	x0, x19
	mov	x29, xzr
	mov	x30, xzr
	b	boot
	.size	start, . - start

/* Every vCPU's own registers: vectors, and no trap on floating point. */
	.type set_up_cpu, %function
set_up_cpu:
	adrp	x1, vectors
	add	x1, x1, :lo12:vectors
	msr	vbar_el1, x1
	mov	x1, #(3 << 20)
	msr	cpacr_el1, x1
	isb
	ret
	.size	set_up_cpu, . - set_up_cpu

/*
 * Where PSCI CPU_ON starts another vCPU, with x0 = the address of
 * struct secondary {stack top, function, argument}, written back to memory by the vCPU that
 * started it, since the caches are off here.
 */
	.global secondary_start
	.type secondary_start, %function
secondary_start:
	ldp	x1, x20, [x0]
	ldr	x19, [x0, #16]
	mov	sp, x1
	bl	set_up_cpu
	bl	arch_mmu_enable
	mov	x0, x19
	mov	x29, xzr
	mov	x30, xzr
	br	x20
	.size	secondary_start, . - secondary_start

/* A vCPU started with this as its entry point turns itself off at once. */
	.global arch_cpu_park
	.type arch_cpu_park, %function
arch_cpu_park:
	ldr	x0, =0x84000002		/* PSCI CPU_OFF */
	smc	#0
	b	.
	.size	arch_cpu_park, . - arch_cpu_park

	.section .bss.boot_stack, "aw", %nobits
	.balign	16
	.skip	16384
boot_stack_top:
