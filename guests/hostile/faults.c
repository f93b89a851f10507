/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Illegal accesses and instructions: each must come back as an exception of its class, with the
 * address, and leave the VM alive.
 */
#include "boot.h"
#include "hostile.h"
#include "log.h"
#include "string.h"

#define NO_ADDRESS (~0UL) /* the class says nothing about FAR */

static void expect(struct tally *tally, const char *name, arch_probe *probe, u64 address,
		   enum fault_class wanted, u64 wanted_address)
{
	struct fault fault = {0};
	bool faulted = arch_try(probe, address, 0, &fault);

	tally->checks++;
	if (faulted && arch_fault_class(&fault) == wanted &&
	    (wanted_address == NO_ADDRESS || fault.address == wanted_address))
		return;
	tally->wrong++;
	if (!faulted)
		log_line("hostile: %s: no fault", name);
	else
		log_line("hostile: %s: esr=0x%lx far=0x%lx, expected class 0x%x", name,
			 fault.syndrome, fault.address, (u32)wanted);
}

void check_faults(struct tally *tally)
{
	u64 end = memory.base + (memory.size & ~(PAGE_SIZE - 1));
	u64 before = memory.base - 4;
	u64 rx = (u64)mailbox_rx;

	if (memory.base) {
		expect(tally, "read before", arch_probe_read, before, FAULT_DATA, before);
		expect(tally, "write before", arch_probe_write, before, FAULT_DATA, before);
		expect(tally, "execute before", arch_probe_exec, before, FAULT_FETCH, before);
	}
	expect(tally, "read behind", arch_probe_read, end, FAULT_DATA, end);
	expect(tally, "write behind", arch_probe_write, end, FAULT_DATA, end);
	expect(tally, "execute behind", arch_probe_exec, end, FAULT_FETCH, end);
	expect(tally, "write the RX page", arch_probe_write, rx, FAULT_DATA, rx);
	expect(tally, "undefined instruction", arch_probe_undef, 0, FAULT_UNKNOWN, NO_ADDRESS);
	expect(tally, "svc", arch_probe_svc, 0, FAULT_CALL, NO_ADDRESS);
	expect(tally, "misaligned", arch_probe_align, 0, FAULT_DATA, NO_ADDRESS);
}

/* Not part of `all`: what the engine's CPU has, and who traps it, differs between engines. */
void check_registers(struct tally *tally)
{
	expect(tally, "debug register", arch_probe_debug, 0, FAULT_UNKNOWN, NO_ADDRESS);
	expect(tally, "performance monitor", arch_probe_pmu, 0, FAULT_UNKNOWN, NO_ADDRESS);
	expect(tally, "interrupt controller", arch_probe_gic, 0, FAULT_UNKNOWN, NO_ADDRESS);
	expect(tally, "limited ordering", arch_probe_lor, 0, FAULT_UNKNOWN, NO_ADDRESS);
}
