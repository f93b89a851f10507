/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * arm64: a vCPU's registers, at its start and in a snapshot.
 */
#include "arm64.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define PSTATE_EL1H_MASKED 0x3c5
#define SCTLR ARM64_SYS_REG(3, 0, 1, 0, 0)
#define MPIDR ARM64_SYS_REG(3, 0, 0, 0, 5)

int hfs_get_one(struct hfs_cpu *cpu, uint64_t id, uint64_t *value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uint64_t)(uintptr_t)value};

	return ioctl(cpu->fd, KVM_GET_ONE_REG, &reg) ? -errno : 0;
}

int hfs_put_one(struct hfs_cpu *cpu, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uint64_t)(uintptr_t)&value};

	return ioctl(cpu->fd, KVM_SET_ONE_REG, &reg) ? -errno : 0;
}

static int initialize(struct hfs_cpu *cpu)
{
	struct kvm_vcpu_init target;

	if (ioctl(cpu->vm_fd, KVM_ARM_PREFERRED_TARGET, &target))
		return -errno;
	return ioctl(cpu->fd, KVM_ARM_VCPU_INIT, &target) ? -errno : 0;
}

int hfs_arch_open(struct hfs_cpu *cpu, int kvm_fd)
{
	(void)kvm_fd;
	return initialize(cpu);
}

void hfs_arch_close(struct hfs_cpu *cpu)
{
	(void)cpu;
}

/* Else the end of an access, or an abort, would happen to the state that is set afterwards. */
int hfs_complete_if_ran(struct hfs_cpu *cpu)
{
	return cpu->ran ? hfs_complete_pending(cpu) : 0;
}

int hfs_settle_registers(struct hfs_cpu *cpu)
{
	int error = cpu->access_unanswered ? 0 : hfs_complete_if_ran(cpu);

	return error ? error : hfs_write_reply(cpu);
}

int hfs_reset(struct hfs_cpu *cpu, uint64_t pc, uint64_t argument)
{
	int level, error = hfs_complete_if_ran(cpu);

	cpu->access_unanswered = 0;
	if (!error)
		error = initialize(cpu);
	/* KVM has lowered the line; another thread may be changing it now. */
	do {
		level = atomic_load(&cpu->line);
		if (!error)
			error = hfs_update_line(cpu, level);
	} while (!error && level != atomic_load(&cpu->line));
	if (!error)
		error = hfs_zero_system(cpu);
	if (!error) /* Hafnium leaves bit 31, which KVM sets, clear */
		error = hfs_put_one(cpu, MPIDR, (uint64_t)cpu->index);
	if (!error)
		error = hfs_put_one(cpu, CORE(regs.pstate), PSTATE_EL1H_MASKED);
	if (!error)
		error = hfs_put_one(cpu, CORE(regs.pc), pc);
	if (!error)
		error = hfs_put_one(cpu, GENERAL(0), argument);
	cpu->reply.count = 0;
	return error;
}

int hfs_program_counter(struct hfs_cpu *cpu, uint64_t *pc)
{
	return hfs_get_one(cpu, CORE(regs.pc), pc);
}

int hfs_translate(struct hfs_cpu *cpu, uint64_t address, uint64_t *physical)
{
	uint64_t control;
	int error = hfs_get_one(cpu, SCTLR, &control);

	*physical = address;
	return error ? error : control & 1 ? -ENOENT : 0;
}

int hfs_last_exception(struct hfs_cpu *cpu, struct hfs_exception *found)
{
	(void)cpu;
	(void)found;
	return -ENOENT;
}

/* Saved: magic, count, then {id, 16 bytes} for each register of KVM_GET_REG_LIST. */
static const uint8_t magic[8] = "hfs-ka1";

enum { MAX_REGISTERS = 1024, VALUE = 16 };

struct saved_register {
	uint64_t id;
	uint8_t value[VALUE];
};

struct saved {
	uint8_t magic[8];
	uint64_t count;
	struct saved_register registers[MAX_REGISTERS];
};

int hfs_saved_size(void)
{
	return sizeof(struct saved);
}

static uint64_t size_of(uint64_t id)
{
	return 1ULL << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
}

int hfs_save(struct hfs_cpu *cpu, uint8_t *out, int size)
{
	struct saved *saved = (struct saved *)out;
	struct kvm_reg_list *list;
	uint64_t index;
	int error;

	if (size != sizeof(*saved))
		return -EINVAL;
	error = hfs_settle_registers(cpu);
	if (error)
		return error;
	memset(saved, 0, sizeof(*saved));
	memcpy(saved->magic, magic, sizeof(magic));
	list = calloc(1, sizeof(*list) + MAX_REGISTERS * sizeof(list->reg[0]));
	if (!list)
		return -ENOMEM;
	list->n = MAX_REGISTERS;
	if (ioctl(cpu->fd, KVM_GET_REG_LIST, list))
		error = -errno;
	for (index = 0; !error && index < list->n; index++) {
		struct saved_register *each = &saved->registers[saved->count];
		struct kvm_one_reg reg = {.id = list->reg[index],
					  .addr = (uint64_t)(uintptr_t)each->value};

		if (size_of(reg.id) > VALUE)
			error = -E2BIG;
		else if (ioctl(cpu->fd, KVM_GET_ONE_REG, &reg))
			error = -errno;
		if (reg.id == KVM_REG_ARM_TIMER_CNT && cpu->frozen)
			memcpy(each->value, &cpu->frozen_count, sizeof(cpu->frozen_count));
		each->id = reg.id;
		saved->count++;
	}
	free(list);
	return error;
}

int hfs_restore(struct hfs_cpu *cpu, const uint8_t *in, int size)
{
	const struct saved *saved = (const struct saved *)in;
	uint64_t index;
	int error;

	if (size != sizeof(*saved) || memcmp(saved->magic, magic, sizeof(magic)) ||
	    saved->count > MAX_REGISTERS)
		return -EINVAL;
	error = hfs_complete_if_ran(cpu);
	if (error)
		return error;
	cpu->access_unanswered = 0;
	for (index = 0; index < saved->count; index++) {
		struct saved_register each = saved->registers[index];
		struct kvm_one_reg reg = {.id = each.id, .addr = (uint64_t)(uintptr_t)each.value};

		if (size_of(each.id) > VALUE)
			return -EINVAL;
		if (each.id == KVM_REG_ARM_TIMER_CNT && cpu->frozen) {
			/* hfs_thaw will set it. */
			memcpy(&cpu->frozen_count, each.value, sizeof(cpu->frozen_count));
			continue;
		}
		/* Identification registers accept no value but their own. */
		if (ioctl(cpu->fd, KVM_SET_ONE_REG, &reg) && errno != EINVAL && errno != EPERM)
			return -errno;
	}
	cpu->reply.count = 0;
	return 0;
}

void hfs_clear_counters(uint8_t *out)
{
	struct saved *saved = (struct saved *)out;
	uint64_t index;

	for (index = 0; index < saved->count; index++) {
		struct saved_register *each = &saved->registers[index];

		if (each->id == KVM_REG_ARM_TIMER_CNT || each->id == KVM_REG_ARM_PTIMER_CNT)
			memset(each->value, 0, sizeof(each->value));
	}
}
