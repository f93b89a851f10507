/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The vectors' table, and what they call.
 */
#include "arch.h"
#include "boot.h"
#include "log.h"

/* As pushed by vectors.S and by the processor. What a C function keeps is not in it. */
struct frame {
	u64 rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11;
	u64 vector;
	u64 error; /* 0 where the processor pushes none */
	u64 rip, cs, flags, rsp, ss;
};

#define VECTORS 33 /* of exceptions, and the interrupt's */
#define VECTOR_SIZE 16

#define DIVIDE_ERROR 0
#define UNDEFINED 6
#define PROTECTION 13
#define PAGE_FAULT 14
#define INTERRUPT 32

/* Error code of a page fault. */
#define PRESENT (1UL << 0)
#define FETCH (1UL << 4)
#define FROM_HYPERVISOR (1UL << 14 | 1UL << 16) /* either; no processor sets them */

#define CODE_SELECTOR 8
#define INTERRUPT_GATE 0x8e00U /* present, privilege 0: comes with interrupts masked */

struct gate {
	u16 offset_low;
	u16 selector;
	u16 type;
	u16 offset_middle;
	u32 offset_high;
	u32 unused;
};

extern u8 vectors[];
struct gate vector_table[VECTORS] __attribute__((aligned(16)));

static struct fault *expecting;
static bool faulted;

bool arch_try(arch_probe *probe, u64 address, u64 value, struct fault *fault)
{
	faulted = false;
	expecting = fault;
	(void)probe(address, value);
	/* The handler's writes are invisible to the compiler. */
	__asm__ volatile("" ::: "memory");
	expecting = NULL;
	return faulted;
}

enum fault_class arch_fault_class(const struct fault *fault)
{
	switch (fault->syndrome >> 32) {
	case DIVIDE_ERROR:
		return FAULT_CALL;
	case UNDEFINED:
		return FAULT_UNKNOWN;
	case PROTECTION:
		return FAULT_PRIVILEGED;
	case PAGE_FAULT:
		if (fault->syndrome & FROM_HYPERVISOR)
			return fault->syndrome & FETCH ? FAULT_FETCH : FAULT_DATA;
		return FAULT_OTHER;
	default:
		return FAULT_OTHER;
	}
}

/* From start.S, once, before any vector can be taken. */
void fill_vector_table(void);

void fill_vector_table(void)
{
	for (unsigned int i = 0; i < VECTORS; i++) {
		u64 handler = (u64)vectors + i * VECTOR_SIZE;

		vector_table[i] = (struct gate){
			.offset_low = (u16)handler,
			.selector = CODE_SELECTOR,
			.type = INTERRUPT_GATE,
			.offset_middle = (u16)(handler >> 16),
			.offset_high = (u32)(handler >> 32),
		};
	}
}

void arch_exception(struct frame *frame);

void arch_exception(struct frame *frame)
{
	struct fault fault = {.syndrome = frame->vector << 32 | (u32)frame->error,
			      .pc = frame->rip};

	if (frame->vector == INTERRUPT) {
		boot_interrupt();
		return;
	}
	if (frame->vector == PAGE_FAULT) {
		__asm__ volatile("movq %%cr2, %0" : "=r"(fault.address));
		if (!(frame->error & (FROM_HYPERVISOR | PRESENT)) && arch_mmu_window(fault.address))
			return;
	}
	if (expecting) {
		*expecting = fault;
		expecting = NULL;
		faulted = true;
		/* A probe leaves its return address on top of the stack. */
		frame->rip = *(u64 *)frame->rsp;
		frame->rsp += sizeof(u64);
		frame->rax = 1;
		return;
	}
	log_line("%s: fault " ARCH_FAULT_FORMAT ", image at 0x%lx", guest_name, fault.syndrome,
		 fault.address, fault.pc, (u64)image_start);
	for (;;)
		arch_cpu_off();
}
