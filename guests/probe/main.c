/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * probe: does a script of single calls, accesses and instructions, and keeps what came of each, for
 * comparison with another hypervisor. It runs as a secondary VM, and where a guest can be that, as the
 * primary, which ends the machine after its last row.
 */
#include "probe.h"

#include "boot.h"
#include "hypercalls.h"
#include "string.h"

const char guest_name[] = "probe";
/* So that an access to what the VM does not have reaches the hypervisor. */
const bool guest_map_everything = true;

static u8 stacks[ARCH_CPUS][8192] __attribute__((aligned(16)));

/* Of the row that unmasks interrupts. */
static struct row *taking;

void guest_interrupt(u32 intid)
{
	if (!taking)
		return;
	taking->r[0]++;
	if (taking->r[0] < 8)
		taking->r[taking->r[0]] = intid;
}

static void take_interrupts(struct row *row)
{
	u64 before;

	memset(row->r, 0, sizeof(row->r));
	taking = row;
	/* As long as there are some: a window may take one alone. */
	do {
		before = row->r[0];
		arch_irq_window();
	} while (row->r[0] != before);
	taking = NULL;
}

static void follow(void *argument);

static bool call(arch_probe *probe, struct row *row, struct fault *fault)
{
	return !arch_try(probe, row->r[0], row->r[1], fault);
}

/* False: it faulted. */
static bool load(struct row *row, struct fault *fault)
{
	const u64 *from = (const u64 *)row->r[0];

	if (!call(arch_probe_read, row, fault))
		return false;
	memcpy(row->r, from, sizeof(row->r));
	return true;
}

static bool store(struct row *row, struct fault *fault)
{
	u64 *to = (u64 *)row->r[0];

	if (!call(arch_probe_write, row, fault))
		return false;
	for (u64 i = 0; i < row->r[2]; i++)
		to[i] = row->r[1] + i;
	return true;
}

static bool words(struct row *row, struct fault *fault)
{
	if (!call(arch_probe_write, row, fault))
		return false;
	memcpy((u64 *)row->r[0], row->r + 1, 7 * sizeof(u64));
	return true;
}

static bool start(struct row *row)
{
	u32 index = (u32)row->r[0];

	if (index >= ARCH_CPUS)
		return false;
	memset(row->r, 0, sizeof(row->r));
	row->r[0] = (u32)arch_cpu_on(index, stacks[index] + sizeof(stacks[index]), follow,
				     (void *)(u64)index);
	return true;
}

static bool entry(struct row *row)
{
	if (row->r[0] > PROBE_ENTRY - 8)
		return false;
	memcpy(row->r, probe_entry + row->r[0], sizeof(row->r));
	return true;
}

static enum row_state run(struct row *row)
{
	struct fault fault = {0};
	struct call result;
	bool well;

	switch (row->kind) {
	case ROW_HVC:
	case ROW_SMC:
		memcpy(result.r, row->r, sizeof(result.r));
		result = row->kind == ROW_SMC ? arch_firmware_call(result) : arch_hypercall(result);
		memcpy(row->r, result.r, sizeof(result.r));
		return ROW_DONE;
	case ROW_LOAD:
		well = load(row, &fault);
		break;
	case ROW_STORE:
		well = store(row, &fault);
		break;
	case ROW_WORDS:
		well = words(row, &fault);
		break;
	case ROW_EXECUTE:
		well = call(arch_probe_exec, row, &fault);
		break;
	case ROW_INSTRUCTION:
		well = probe_instruction((u32)row->r[0], &row->r[1], &fault);
		row->r[0] = row->r[1];
		row->r[1] = 0;
		break;
	case ROW_INTERRUPTS:
		take_interrupts(row);
		return ROW_DONE;
	case ROW_START:
		return start(row) ? ROW_DONE : ROW_UNKNOWN;
	case ROW_ENTRY:
		return entry(row) ? ROW_DONE : ROW_UNKNOWN;
	default:
		return ROW_UNKNOWN;
	}
	if (well)
		return ROW_DONE;
	memset(row->r, 0, sizeof(row->r));
	row->r[0] = fault.syndrome;
	row->r[1] = fault.address;
	return ROW_FAULT;
}

/* A vCPU's rows; then it is off, and the machine of a primary too. */
static void follow(void *argument)
{
	struct script *script = (struct script *)(image_start + PROBE_SCRIPT);
	u64 index = (u64)argument;
	const struct call off = {{PSCI_SYSTEM_OFF}};

	if (script->magic == PROBE_MAGIC) {
		struct row *row = script->rows + script->vcpus[index].first;

		for (u32 i = 0; i < script->vcpus[index].count; i++, row++) {
			if (row->state != ROW_TO_DO)
				continue; /* the vCPU was off, and has been started again */
			row->state = ROW_BEGUN;
			row->state = run(row);
		}
	}
	if (hypercall(FFA_ID_GET, 0, 0, 0, 0).r[2] == PRIMARY_ID)
		arch_firmware_call(off);
	for (;;)
		arch_cpu_off();
}

void guest_main(void)
{
	follow(NULL);
}
