/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * arm64 without an in-kernel GIC: hypercalls are forwarded by the SMCCC filter, registers go by
 * KVM_GET_ONE_REG and KVM_SET_ONE_REG, the interrupt line by KVM_IRQ_LINE.  WFI stays in the
 * kernel.
 */
#include <stddef.h>

#define CORE(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))
#define GENERAL(n) (CORE(regs.regs[0]) + (n) * (sizeof(uint64_t) / sizeof(uint32_t)))
#define PSTATE_EL1H_MASKED 0x3c5
#define ESR_EL1 ARM64_SYS_REG(3, 0, 5, 2, 0)
#define ESR_WRITE (1 << 6) /* WnR of a data abort's syndrome */

#define TIMER_ENABLE 1
#define TIMER_MASK 2

/* Since Linux 6.4; the headers here may be older. */
#ifndef KVM_HYPERCALL_EXIT_SMC
#define KVM_ARM_VM_SMCCC_CTRL 0
#define KVM_ARM_VM_SMCCC_FILTER 0
#define KVM_SMCCC_FILTER_FWD_TO_USER 2
struct kvm_smccc_filter {
	uint32_t base;
	uint32_t nr_functions;
	uint8_t action;
	uint8_t pad[15];
};
#define IS_SMC(run) ((run)->hypercall.longmode & 1) /* where `flags` is */
#else
#define IS_SMC(run) ((run)->hypercall.flags & KVM_HYPERCALL_EXIT_SMC)
#endif

int hf_settle(struct hf_cpu *cpu);

static int get(struct hf_cpu *cpu, uint64_t id, uint64_t *value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uint64_t)(uintptr_t)value};

	return ioctl(cpu->fd, KVM_GET_ONE_REG, &reg) ? -errno : 0;
}

static int put(struct hf_cpu *cpu, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uint64_t)(uintptr_t)&value};

	return ioctl(cpu->fd, KVM_SET_ONE_REG, &reg) ? -errno : 0;
}

static int init(struct hf_cpu *cpu)
{
	struct kvm_vcpu_init target;

	if (ioctl(cpu->vm_fd, KVM_ARM_PREFERRED_TARGET, &target))
		return -errno;
	return ioctl(cpu->fd, KVM_ARM_VCPU_INIT, &target) ? -errno : 0;
}

int hf_arch_open(struct hf_cpu *cpu, int index)
{
	cpu->index = index;
	return init(cpu);
}

void hf_arch_close(struct hf_cpu *cpu)
{
	(void)cpu;
}

int hf_arch_before(struct hf_cpu *cpu)
{
	int index, error;

	for (index = 0; index < (int)cpu->reply.count; index++) {
		error = put(cpu, GENERAL(index), cpu->reply.values[index]);
		if (error)
			return error - 1000;
	}
	cpu->reply.count = 0;
	return -1;
}

static int hypercall(struct hf_cpu *cpu)
{
	int index, error;

	for (index = 0; index < 8; index++) {
		error = get(cpu, GENERAL(index), &cpu->exit.args[index]);
		if (error)
			return error - 1000;
	}
	return IS_SMC(cpu->run) ? HF_SMC : HF_HVC;
}

static int failed(struct hf_cpu *cpu, uint32_t reason, uint64_t detail)
{
	cpu->exit.reason = reason;
	cpu->exit.detail = detail;
	cpu->exit.address = 0;
	get(cpu, CORE(regs.pc), &cpu->exit.address);
	return HF_FAILED;
}

int hf_arch_after(struct hf_cpu *cpu, int error)
{
	struct kvm_run *run = cpu->run;

	if (error == EINTR || error == EAGAIN)
		return run->s.regs.device_irq_level & KVM_ARM_DEV_EL1_VTIMER ? HF_TIMER : -1;
	if (error)
		return failed(cpu, 0, (uint64_t)error);
	switch (run->exit_reason) {
	case KVM_EXIT_HYPERCALL:
		return hypercall(cpu);
	case KVM_EXIT_INTR:
		return -1;
	case KVM_EXIT_MMIO:
		cpu->unanswered = 1;
		cpu->exit.address = run->mmio.phys_addr;
		cpu->exit.virtual_address = 0; /* KVM does not tell it */
		cpu->exit.size = run->mmio.len;
		cpu->exit.write = run->mmio.is_write;
		cpu->exit.value = 0;
		if (run->mmio.is_write && run->mmio.len <= 8)
			memcpy(&cpu->exit.value, run->mmio.data, run->mmio.len);
		return HF_MMIO;
	case KVM_EXIT_ARM_NISV:
		cpu->exit.address = run->arm_nisv.fault_ipa;
		cpu->exit.virtual_address = 0;
		cpu->exit.write = run->arm_nisv.esr_iss >> 6 & 1;
		return HF_ODD;
	case KVM_EXIT_FAIL_ENTRY:
		return failed(cpu, run->exit_reason, run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_INTERNAL_ERROR:
		return failed(cpu, run->exit_reason, run->internal.suberror);
	default:
		return failed(cpu, run->exit_reason, 0);
	}
}

static int tell_line(struct hf_cpu *cpu, int level)
{
	struct kvm_irq_level line = {
		.irq = KVM_ARM_IRQ_TYPE_CPU << KVM_ARM_IRQ_TYPE_SHIFT |
		       (uint32_t)cpu->index << KVM_ARM_IRQ_VCPU_SHIFT | KVM_ARM_IRQ_CPU_IRQ,
		.level = (uint32_t)level,
	};

	return ioctl(cpu->vm_fd, KVM_IRQ_LINE, &line) ? -errno : 0;
}

/* Any thread: the kernel wakes a WFI and interrupts the guest by itself. */
int hf_set_line(struct hf_cpu *cpu, int level)
{
	int error = 0;

	atomic_fetch_add(&cpu->users, 1);
	atomic_store(&cpu->line, level);
	if (!atomic_load(&cpu->closed))
		error = tell_line(cpu, level);
	atomic_fetch_sub(&cpu->users, 1);
	return error;
}

/* What KVM holds half-done (the end of an access, an abort) happens now, not to another state. */
static int finish(struct hf_cpu *cpu)
{
	return cpu->ran ? hf_settle(cpu) : 0;
}

int hf_reset(struct hf_cpu *cpu, uint64_t pc, uint64_t argument)
{
	int level, error = finish(cpu);

	cpu->unanswered = 0;
	if (!error)
		error = init(cpu);
	/* KVM has lowered the line; somebody may be changing it now. */
	do {
		level = atomic_load(&cpu->line);
		if (!error)
			error = tell_line(cpu, level);
	} while (!error && level != atomic_load(&cpu->line));
	if (!error)
		error = put(cpu, CORE(regs.pstate), PSTATE_EL1H_MASKED);
	if (!error)
		error = put(cpu, CORE(regs.pc), pc);
	if (!error)
		error = put(cpu, GENERAL(0), argument);
	cpu->reply.count = 0;
	return error;
}

int hf_complete_mmio(struct hf_cpu *cpu, uint64_t value)
{
	cpu->unanswered = 0;
	if (!cpu->run->mmio.is_write)
		memcpy(cpu->run->mmio.data, &value, 8);
	return 0;
}

int hf_call_off(struct hf_cpu *cpu)
{
	uint64_t before[31], pc;
	int index, error;

	cpu->unanswered = 0;
	error = get(cpu, CORE(regs.pc), &pc);
	for (index = 0; !error && index < 31; index++)
		error = get(cpu, GENERAL(index), &before[index]);
	if (!error)
		error = hf_settle(cpu);
	for (index = 0; !error && index < 31; index++)
		error = put(cpu, GENERAL(index), before[index]);
	if (!error)
		error = put(cpu, CORE(regs.pc), pc);
	return error;
}

/*
 * The kernel makes the abort, with the address that the guest used; the access is called off.  The
 * kernel does not say that it was a write, so we do: the abort is taken before the guest goes on.
 */
int hf_inject_abort(struct hf_cpu *cpu, int fetch)
{
	struct kvm_vcpu_events events;
	uint64_t syndrome;
	int error = hf_call_off(cpu);

	(void)fetch;
	if (error)
		return error;
	if (ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events))
		return -errno;
	events.exception.ext_dabt_pending = 1;
	if (ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events))
		return -errno;
	error = hf_settle(cpu);
	if (error || !cpu->exit.write)
		return error;
	error = get(cpu, ESR_EL1, &syndrome);
	return error ? error : put(cpu, ESR_EL1, syndrome | ESR_WRITE);
}

static int timer(struct hf_cpu *cpu, uint64_t *control, uint64_t *value, uint64_t *count)
{
	int error = get(cpu, KVM_REG_ARM_TIMER_CTL, control);

	/* The ids of the two were swapped when they were defined: this is CNTV_CVAL. */
	if (!error)
		error = get(cpu, KVM_REG_ARM_TIMER_CVAL, value);
	return error ? error : hf_read_clock(cpu, count);
}

/* 1 and the time in `left`, 0 for a timer that is off or masked. */
int hf_timer_remaining(struct hf_cpu *cpu, int64_t *left)
{
	uint64_t control, value, count, frequency, ticks;
	int error = timer(cpu, &control, &value, &count);

	if (error)
		return error;
	if ((control & (TIMER_ENABLE | TIMER_MASK)) != TIMER_ENABLE)
		return 0;
	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	ticks = value > count ? value - count : 0;
	if (ticks / frequency >= INT64_MAX / 1000000000)
		*left = INT64_MAX;
	else /* rounded up: the timer must have fired by then */
		*left = (int64_t)(ticks / frequency * 1000000000 +
				  (ticks % frequency * 1000000000 + frequency - 1) / frequency);
	return 1;
}

int hf_mask_timer(struct hf_cpu *cpu)
{
	uint64_t control;
	int error = get(cpu, KVM_REG_ARM_TIMER_CTL, &control);

	return error ? error : put(cpu, KVM_REG_ARM_TIMER_CTL, control | TIMER_MASK);
}

/* Forward a range of function ids to user space; before the first run. */
int hf_forward(int vm_fd, uint32_t base, uint32_t count)
{
	struct kvm_smccc_filter filter = {
		.base = base,
		.nr_functions = count,
		.action = KVM_SMCCC_FILTER_FWD_TO_USER,
	};
	struct kvm_device_attr attribute = {
		.group = KVM_ARM_VM_SMCCC_CTRL,
		.attr = KVM_ARM_VM_SMCCC_FILTER,
		.addr = (uint64_t)(uintptr_t)&filter,
	};

	return ioctl(vm_fd, KVM_SET_DEVICE_ATTR, &attribute) ? -errno : 0;
}

/* All that the filter can forward goes to the hypervisor, which knows what it has. */
int hf_prepare_vm(int kvm_fd, int vm_fd)
{
	static const struct {
		uint32_t base, count;
	} ranges[] = {
		{0x00000000, 0x80000000}, /* yielding calls, and Hafnium's own */
		{0x81000000, 0x3f000000}, /* fast, 32 bits, but for the Arm architecture's */
		{0xc1000000, 0x3f000000}, /* fast, 64 bits, likewise */
	};
	struct kvm_enable_cap odd = {.cap = KVM_CAP_ARM_NISV_TO_USER};
	unsigned int index;
	int error = 0;

	(void)kvm_fd;
	for (index = 0; !error && index < sizeof(ranges) / sizeof(ranges[0]); index++)
		error = hf_forward(vm_fd, ranges[index].base, ranges[index].count);
	/* Or KVM_RUN fails at an access that it cannot decode: a pair, an exclusive one. */
	if (!error && ioctl(vm_fd, KVM_ENABLE_CAP, &odd))
		error = -errno;
	return error;
}

int hf_features(struct hf_cpu *cpu, int kvm_fd)
{
	(void)cpu;
	(void)kvm_fd;
	return 0;
}

int hf_program_counter(struct hf_cpu *cpu, uint64_t *pc)
{
	return get(cpu, CORE(regs.pc), pc);
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

int hf_saved_size(struct hf_cpu *cpu)
{
	(void)cpu;
	return sizeof(struct saved);
}

static uint64_t size_of(uint64_t id)
{
	return 1ULL << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
}

int hf_save(struct hf_cpu *cpu, uint8_t *out, int size)
{
	struct saved *saved = (struct saved *)out;
	struct kvm_reg_list *list;
	uint64_t index;
	int error;

	if (size != sizeof(*saved))
		return -EINVAL;
	error = cpu->unanswered ? 0 : finish(cpu);
	if (error)
		return error;
	error = hf_arch_before(cpu); /* a reply is part of the state */
	if (error != -1)
		return -EIO;
	error = 0;
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
		if (reg.id == KVM_REG_ARM_TIMER_CNT && cpu->stands)
			memcpy(each->value, &cpu->stood, sizeof(cpu->stood));
		each->id = reg.id;
		saved->count++;
	}
	free(list);
	return error;
}

int hf_restore(struct hf_cpu *cpu, const uint8_t *in, int size)
{
	const struct saved *saved = (const struct saved *)in;
	uint64_t index;
	int error;

	if (size != sizeof(*saved) || memcmp(saved->magic, magic, sizeof(magic)) ||
	    saved->count > MAX_REGISTERS)
		return -EINVAL;
	error = finish(cpu);
	if (error)
		return error;
	cpu->unanswered = 0;
	for (index = 0; index < saved->count; index++) {
		struct saved_register each = saved->registers[index];
		struct kvm_one_reg reg = {.id = each.id, .addr = (uint64_t)(uintptr_t)each.value};

		if (size_of(each.id) > VALUE)
			return -EINVAL;
		if (each.id == KVM_REG_ARM_TIMER_CNT && cpu->stands) {
			memcpy(&cpu->stood, each.value, sizeof(cpu->stood)); /* set by hf_thaw */
			continue;
		}
		/* Some say what the CPU is, and can only be what they are. */
		if (ioctl(cpu->fd, KVM_SET_ONE_REG, &reg) && errno != EINVAL && errno != EPERM)
			return -errno;
	}
	cpu->reply.count = 0;
	return 0;
}

/* What goes on by itself is no part of the state that is compared. */
void hf_forget_time(uint8_t *out)
{
	struct saved *saved = (struct saved *)out;
	uint64_t index;

	for (index = 0; index < saved->count; index++) {
		struct saved_register *each = &saved->registers[index];

		if (each->id == KVM_REG_ARM_TIMER_CNT || each->id == KVM_REG_ARM_PTIMER_CNT)
			memset(each->value, 0, sizeof(each->value));
	}
}

/* One count for the whole machine: setting it for one vCPU sets it for all. */
int hf_read_clock(struct hf_cpu *cpu, uint64_t *count)
{
	if (!cpu->stands)
		return get(cpu, KVM_REG_ARM_TIMER_CNT, count);
	*count = cpu->stood;
	return 0;
}

int hf_thaw(struct hf_cpu *cpu, const struct hf_cpu *first)
{
	cpu->stands = 0;
	return cpu == first ? put(cpu, KVM_REG_ARM_TIMER_CNT, cpu->stood) : 0;
}
