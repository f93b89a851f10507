/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Illegal accesses and instructions: each must come back as an exception of its class, with the
 * address, and leave the VM alive.
 */
#include "boot.h"
#include "hostile.h"
#include "log.h"
#include "string.h"

#define NO_ADDRESS (~0UL) /* the class says nothing about the address */

static void expect(struct tally *tally, const char *name, arch_probe *probe, u64 address,
		   enum fault_class wanted, u64 wanted_address)
{
	struct fault fault = {0};
	bool faulted = arch_try(probe, address, 0, &fault);

	tally->checks++;
	if (!faulted && wanted == FAULT_NONE)
		return;
	if (faulted && arch_fault_class(&fault) == wanted &&
	    (wanted_address == NO_ADDRESS || fault.address == wanted_address))
		return;
	tally->wrong++;
	if (!faulted)
		log_line("hostile: %s: no fault", name);
	else
		log_line("hostile: %s: " ARCH_FAULT_FORMAT ", expected class %d", name,
			 fault.syndrome, fault.address, fault.pc, (s32)wanted);
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
	expect(tally, "misaligned", arch_probe_align, 0, FAULT_MISALIGNED, NO_ADDRESS);
}

/* Not part of `all`: what the engine's CPU has, and what traps, differs between engines. */
void check_registers(struct tally *tally)
{
	static const struct {
		const char *name;
		arch_probe *probe;
	} registers[] = {ARCH_REGISTERS};

	for (unsigned int i = 0; i < sizeof(registers) / sizeof(registers[0]); i++)
		expect(tally, registers[i].name, registers[i].probe, 0, FAULT_REGISTER, NO_ADDRESS);
}
