/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * x86-64: the ABI is in docs/x86-abi.md.  Hypercalls are `out` to a port, with the registers in
 * the shared page (KVM_SYNC_X86_REGS): one ioctl a hypercall.
 */
#define PORT_HVC 0x48
#define PORT_SMC 0x53
#define PORT_TIMER 0x54
#define VECTOR 0x20
#define MAX_INSTRUCTION 15 /* bytes */
#define VMX (1U << 5)
#define SVM (1U << 2)
#define ABORT (1U << 14) /* not 16, which VMX has no room for */

int hf_signal(void);
int hf_self(void);
int hf_settle(struct hf_cpu *cpu);

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* What the guest's clock shows. */
static int64_t guest_now(const struct hf_cpu *cpu)
{
	return cpu->stands ? (int64_t)cpu->stood : now() - cpu->behind;
}

int hf_read_clock(struct hf_cpu *cpu, uint64_t *count)
{
	*count = (uint64_t)guest_now(cpu);
	return 0;
}

int hf_thaw(struct hf_cpu *cpu, const struct hf_cpu *first)
{
	cpu->behind = cpu == first ? now() - (int64_t)cpu->stood : first->behind;
	cpu->stands = 0;
	return 0;
}

static struct kvm_regs *registers(struct hf_cpu *cpu)
{
	return &cpu->run->s.regs.regs;
}

/* The register that is x0, x1, ... of the calling convention. */
static uint64_t *argument(struct kvm_regs *regs, int index)
{
	switch (index) {
	case 0: return (uint64_t *)&regs->rax;
	case 1: return (uint64_t *)&regs->rdi;
	case 2: return (uint64_t *)&regs->rsi;
	case 3: return (uint64_t *)&regs->rdx;
	case 4: return (uint64_t *)&regs->rcx;
	case 5: return (uint64_t *)&regs->r8;
	case 6: return (uint64_t *)&regs->r9;
	default: return (uint64_t *)&regs->r10;
	}
}

int hf_arch_open(struct hf_cpu *cpu, int index)
{
	(void)index;
	cpu->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	return 0;
}

void hf_arch_close(struct hf_cpu *cpu)
{
	if (cpu->alarm_thread)
		timer_delete(cpu->alarm);
	cpu->alarm_thread = 0;
}

static int set_alarm(struct hf_cpu *cpu, int64_t deadline)
{
	struct itimerspec when = {0};

	if (cpu->alarm_thread && cpu->alarm_thread != hf_self())
		hf_arch_close(cpu);
	if (cpu->alarm_thread && cpu->alarm_set == deadline)
		return 0;
	if (!cpu->alarm_thread) {
		struct sigevent event;

		memset(&event, 0, sizeof(event));
		event.sigev_notify = SIGEV_THREAD_ID;
		event.sigev_signo = hf_signal();
		event._sigev_un._tid = hf_self();
		if (timer_create(CLOCK_MONOTONIC, &event, &cpu->alarm))
			return -errno;
		cpu->alarm_thread = hf_self();
	}
	if (deadline >= 0) {
		when.it_value.tv_sec = deadline / 1000000000;
		when.it_value.tv_nsec = deadline % 1000000000;
	}
	if (timer_settime(cpu->alarm, TIMER_ABSTIME, &when, NULL))
		return -errno;
	cpu->alarm_set = deadline;
	return 0;
}

static void write_reply(struct hf_cpu *cpu)
{
	int index;

	for (index = 0; index < (int)cpu->reply.count; index++)
		*argument(registers(cpu), index) = cpu->reply.values[index];
	cpu->reply.count = 0;
	cpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

int hf_arch_before(struct hf_cpu *cpu)
{
	struct kvm_run *run = cpu->run;

	if (cpu->reply.count)
		write_reply(cpu);
	if (cpu->deadline >= 0) {
		int error;

		if (guest_now(cpu) >= cpu->deadline)
			return HF_TIMER;
		error = set_alarm(cpu, cpu->deadline > INT64_MAX - cpu->behind ?
						INT64_MAX :
						cpu->deadline + cpu->behind);
		if (error)
			return error - 1000;
	}
	run->request_interrupt_window = 0;
	if (atomic_load(&cpu->line)) {
		if (run->ready_for_interrupt_injection && run->if_flag) {
			struct kvm_interrupt interrupt = {.irq = VECTOR};

			/* Again only when KVM has said that it can take one. */
			run->ready_for_interrupt_injection = 0;
			if (ioctl(cpu->fd, KVM_INTERRUPT, &interrupt))
				return -errno - 1000;
		} else {
			run->request_interrupt_window = 1;
		}
	}
	return -1;
}

/* The clock and the timer; RAX says what. */
static void timer_call(struct hf_cpu *cpu)
{
	struct kvm_regs *regs = registers(cpu);

	switch (regs->rax) {
	case 0:
		regs->rax = (uint64_t)guest_now(cpu);
		regs->rdi = 1000000000;
		break;
	case 1:
		cpu->deadline = regs->rdi > INT64_MAX ? INT64_MAX : (int64_t)regs->rdi;
		regs->rax = 0;
		break;
	case 2:
		cpu->deadline = -1;
		regs->rax = 0;
		break;
	default:
		regs->rax = ~0ULL;
	}
	cpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

static int port(struct hf_cpu *cpu)
{
	struct kvm_run *run = cpu->run;
	int index;

	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset((uint8_t *)run + run->io.data_offset, 0xff,
		       (size_t)run->io.size * run->io.count);
		return -1;
	}
	if (run->io.size != 4 || run->io.count != 1)
		return -1;
	if (run->io.port == PORT_TIMER) {
		timer_call(cpu);
		return -1;
	}
	if (run->io.port != PORT_HVC && run->io.port != PORT_SMC)
		return -1;
	for (index = 0; index < 8; index++)
		cpu->exit.args[index] = *argument(registers(cpu), index);
	return run->io.port == PORT_HVC ? HF_HVC : HF_SMC;
}

/* Where the instruction that KVM could not emulate lies: perhaps there is no memory. */
static bool fetched_from(struct hf_cpu *cpu)
{
	uint64_t rip = registers(cpu)->rip, beyond = (rip | 4095) + 1;
	struct kvm_translation first = {.linear_address = rip};
	struct kvm_translation next = {.linear_address = beyond};

	if (ioctl(cpu->fd, KVM_TRANSLATE, &first) || !first.valid)
		return false;
	cpu->exit.virtual_address = rip;
	cpu->exit.address = cpu->exit.value = first.physical_address;
	if (beyond - rip < MAX_INSTRUCTION && !ioctl(cpu->fd, KVM_TRANSLATE, &next) && next.valid)
		cpu->exit.value = next.physical_address;
	/* KVM has made it an undefined instruction; this takes that back. */
	return !ioctl(cpu->fd, KVM_SET_REGS, registers(cpu));
}

static int failed(struct hf_cpu *cpu)
{
	struct kvm_run *run = cpu->run;

	cpu->exit.reason = run->exit_reason;
	cpu->exit.detail = 0;
	cpu->exit.address = registers(cpu)->rip;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
		cpu->exit.detail = run->internal.suberror;
		if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && fetched_from(cpu))
			return HF_FETCH;
	} else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
		cpu->exit.detail = run->fail_entry.hardware_entry_failure_reason;
	}
	return HF_FAILED;
}

int hf_arch_after(struct hf_cpu *cpu, int error)
{
	struct kvm_run *run = cpu->run;

	cpu->read_to_go = 0;
	if (error == EINTR || error == EAGAIN)
		return -1; /* the flags say why */
	if (error) {
		cpu->exit.reason = 0;
		cpu->exit.detail = (uint64_t)error;
		cpu->exit.address = registers(cpu)->rip;
		return HF_FAILED;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return port(cpu);
	case KVM_EXIT_HLT:
		return atomic_load(&cpu->line) ? -1 : HF_WFI;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
	case KVM_EXIT_SET_TPR: /* CR8 has fallen, and no interrupt waits for that */
		return -1;
	case KVM_EXIT_MMIO:
		cpu->unanswered = 1;
		cpu->exit.address = run->mmio.phys_addr;
		cpu->exit.virtual_address = run->mmio.phys_addr; /* KVM does not tell it */
		cpu->exit.size = run->mmio.len;
		cpu->exit.write = run->mmio.is_write;
		cpu->exit.value = 0;
		if (run->mmio.is_write)
			memcpy(&cpu->exit.value, run->mmio.data, run->mmio.len);
		return HF_MMIO;
	default:
		return failed(cpu);
	}
}

int hf_set_line(struct hf_cpu *cpu, int level)
{
	/* Falling needs no exit: the guest asks for the number, and is told that there is none. */
	if (!atomic_exchange(&cpu->line, level) && level)
		prod(cpu);
	return 0;
}

/* Let go of what KVM holds half-done; the general registers are lost. */
static int drop(struct hf_cpu *cpu)
{
	struct kvm_regs regs = *registers(cpu);

	regs.rcx = 1; /* so that no string instruction goes on */
	cpu->unanswered = 0;
	cpu->read_to_go = 0;
	if (ioctl(cpu->fd, KVM_SET_REGS, &regs))
		return -errno;
	cpu->run->kvm_dirty_regs = 0;
	return hf_settle(cpu);
}

int hf_complete_mmio(struct hf_cpu *cpu, uint64_t value)
{
	cpu->unanswered = 0;
	cpu->read_to_go = !cpu->run->mmio.is_write;
	if (cpu->read_to_go)
		memcpy(cpu->run->mmio.data, &value, 8);
	return 0;
}

/* A write's instruction is over when KVM tells of it, and only the write is left to do. */
int hf_call_off(struct hf_cpu *cpu)
{
	struct kvm_regs before = *registers(cpu);
	int error;

	if (cpu->exit.write) {
		cpu->unanswered = 0;
		return 1;
	}
	error = drop(cpu);
	if (error)
		return error;
	*registers(cpu) = before;
	return ioctl(cpu->fd, KVM_SET_REGS, &before) ? -errno : 0;
}

/* A page fault that no CPU makes: see the ABI. */
int hf_inject_abort(struct hf_cpu *cpu, int fetch)
{
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	int error = fetch ? 0 : hf_call_off(cpu);

	if (error == 1)
		error = hf_settle(cpu);
	if (error)
		return error;
	cpu->run->ready_for_interrupt_injection = 0;
	if (ioctl(cpu->fd, KVM_GET_SREGS, &sregs))
		return -errno;
	sregs.cr2 = cpu->exit.address;
	if (ioctl(cpu->fd, KVM_SET_SREGS, &sregs) || ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events))
		return -errno;
	events.interrupt.injected = 0; /* the line is still up: it comes after the abort */
	events.exception.injected = 1;
	events.exception.nr = 14;
	events.exception.has_error_code = 1;
	events.exception.error_code =
		ABORT | (fetch ? 1U << 4 : cpu->exit.write ? 1U << 1 : 0);
	return ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events) ? -errno : 0;
}

int hf_timer_remaining(struct hf_cpu *cpu, int64_t *left)
{
	if (cpu->deadline < 0)
		return 0;
	*left = cpu->deadline - guest_now(cpu);
	if (*left < 0)
		*left = 0;
	return 1;
}

int hf_mask_timer(struct hf_cpu *cpu)
{
	cpu->deadline = -1;
	return 0;
}

/* What a guest may know of the CPU: nothing of KVM, and no machines of its own, whose state nobody
   saves and a reset would have to leave first. */
static struct kvm_cpuid2 *features(int kvm_fd)
{
	enum { ENTRIES = 256 };
	struct kvm_cpuid2 *all = calloc(1, sizeof(*all) + ENTRIES * sizeof(all->entries[0]));
	unsigned int index, kept = 0;

	if (!all)
		return NULL;
	all->nent = ENTRIES;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, all)) {
		free(all);
		return NULL;
	}
	for (index = 0; index < all->nent; index++) {
		struct kvm_cpuid_entry2 entry = all->entries[index];

		if (entry.function == 1)
			entry.ecx &= ~VMX;
		if (entry.function == 0x80000001)
			entry.ecx &= ~SVM;
		if (entry.function >> 16 != 0x4000)
			all->entries[kept++] = entry;
	}
	all->nent = kept;
	return all;
}

int hf_features(struct hf_cpu *cpu, int kvm_fd)
{
	struct kvm_cpuid2 *known = features(kvm_fd);
	int error = 0;

	if (!known)
		return errno ? -errno : -ENOMEM;
	if (ioctl(cpu->fd, KVM_SET_CPUID2, known))
		error = -errno;
	free(known);
	return error;
}

int hf_prepare_vm(int kvm_fd, int vm_fd)
{
	(void)kvm_fd;
	/* Three pages that some Intel CPUs need; others do not know the call. */
	ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL);
	return 0;
}

int hf_program_counter(struct hf_cpu *cpu, uint64_t *pc)
{
	struct kvm_regs regs;

	if (ioctl(cpu->fd, KVM_GET_REGS, &regs))
		return -errno;
	*pc = regs.rip;
	return 0;
}
