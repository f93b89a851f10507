/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the vectors call.
 */
#include "arch.h"
#include "boot.h"
#include "log.h"

/* As pushed by vectors.S. */
struct frame {
	u64 x[31];
	u64 elr;
	u64 spsr;
	u64 unused;
};

enum exception {
	EXCEPTION_SYNCHRONOUS,
	EXCEPTION_IRQ,
	EXCEPTION_OTHER,
};

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

void arch_exception(struct frame *frame, u64 kind);

void arch_exception(struct frame *frame, u64 kind)
{
	struct fault fault = {0};

	if (kind == EXCEPTION_IRQ) {
		boot_interrupt();
		return;
	}
	__asm__ volatile("mrs %0, esr_el1" : "=r"(fault.syndrome));
	__asm__ volatile("mrs %0, far_el1" : "=r"(fault.address));
	fault.pc = frame->elr;
	if (kind == EXCEPTION_SYNCHRONOUS && expecting) {
		*expecting = fault;
		expecting = NULL;
		faulted = true;
		/* A probe keeps its return address in x30 and the stack as it was. */
		frame->elr = frame->x[30];
		frame->x[0] = 1;
		return;
	}
	log_line("%s: fault " ARCH_FAULT_FORMAT ", image at 0x%lx", guest_name, fault.syndrome,
		 fault.address, fault.pc, (u64)image_start);
	for (;;)
		arch_cpu_off();
}
