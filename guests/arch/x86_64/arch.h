/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * x86-64: what the portable code asks of the processor, on the machine of docs/x86-abi.md.
 *
 * Kept to what an emulator of the instruction set can be expected to know, since a hypervisor
 * without hardware support emulates all of this: no SSE, x87, XSAVE, POPCNT, CMPXCHG16B, RDTSCP,
 * INT3 or INT n.
 */
#ifndef GUESTS_ARCH_H
#define GUESTS_ARCH_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define PAGE_SIZE 4096UL

/* First byte of the image and first byte after its .bss, in memory. */
extern u8 image_start[], image_end[];

/* The registers of a hypercall: RAX, RDI, RSI, RDX, RCX, R8, R9, R10, called x0..x7 as on arm64;
 * arguments in, results out. */
struct call {
	u64 r[8];
};

#define ARCH_CALL(insn, c)                                                                         \
	register u64 x0 __asm__("rax") = (c).r[0];                                                 \
	register u64 x1 __asm__("rdi") = (c).r[1];                                                 \
	register u64 x2 __asm__("rsi") = (c).r[2];                                                 \
	register u64 x3 __asm__("rdx") = (c).r[3];                                                 \
	register u64 x4 __asm__("rcx") = (c).r[4];                                                 \
	register u64 x5 __asm__("r8") = (c).r[5];                                                  \
	register u64 x6 __asm__("r9") = (c).r[6];                                                  \
	register u64 x7 __asm__("r10") = (c).r[7];                                                 \
	__asm__ volatile(insn                                                                      \
			 : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5), "+r"(x6),   \
			   "+r"(x7)                                                                \
			 :                                                                         \
			 : "memory");                                                              \
	return (struct call){{x0, x1, x2, x3, x4, x5, x6, x7}}

/* HVC, the usual conduit: every hypercall. */
static inline struct call arch_hypercall(struct call c)
{
	ARCH_CALL("outl %%eax, $0x48", c);
}

/* SMC, the firmware's conduit: PSCI, and FF-A where the hypervisor takes it there too. */
static inline struct call arch_firmware_call(struct call c)
{
	ARCH_CALL("outl %%eax, $0x53", c);
}

static inline void arch_irq_unmask(void)
{
	__asm__ volatile("sti" ::: "memory");
}

static inline void arch_irq_mask(void)
{
	__asm__ volatile("cli" ::: "memory");
}

/* Mask; true if interrupts were unmasked before. */
static inline bool arch_irq_save(void)
{
	u64 flags;

	__asm__ volatile("pushfq\n\tpopq %0" : "=r"(flags)::"memory");
	arch_irq_mask();
	return flags & (1U << 9);
}

static inline void arch_irq_restore(bool unmasked)
{
	if (unmasked)
		arch_irq_unmask();
}

/* Take what is pending and nothing later. STI holds interrupts off for one more instruction, the
 * NOP. A hypervisor that emulates many instructions at a time sees a window this short only if
 * there is an exit in it: the port is unused. */
static inline void arch_irq_window(void)
{
	__asm__ volatile("sti\n\tnop\n\toutl %%eax, $0x80\n\tcli" ::: "memory");
}

/* What is stored before is seen before what is stored after. (MFENCE is of SSE2.) */
static inline void arch_barrier(void)
{
	__asm__ volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");
}

/* A device's register, by the plainest instruction. */
static inline u32 arch_register_read(u64 address)
{
	u32 value;

	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void arch_register_write(u64 address, u32 value)
{
	__asm__ volatile("movl %0, (%1)" ::"r"(value), "r"(address) : "memory");
}

/* Sleep until an interrupt is pending, masked or not. */
static inline void arch_wait_for_interrupt(void)
{
	__asm__ volatile("hlt" ::: "memory");
}

/* CPUID: EAX, EBX, ECX, EDX of a leaf, subleaf 0. */
static inline bool arch_cpuid(u32 leaf, u32 out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
			 : "a"(leaf), "c"(0));
	return true;
}

/* The clock: RAX says what is wanted, RDI has the argument, and the second result. */
#define ARCH_CLOCK_READ 0UL
#define ARCH_CLOCK_SET 1UL
#define ARCH_CLOCK_STOP 2UL

static inline u64 arch_clock(u64 function, u64 *value)
{
	__asm__ volatile("outl %%eax, $0x54" : "+a"(function), "+D"(*value)::"memory");
	return function;
}

static inline u64 arch_counter(void)
{
	u64 frequency = 0;

	return arch_clock(ARCH_CLOCK_READ, &frequency);
}

static inline u64 arch_counter_frequency(void)
{
	u64 frequency = 0;

	arch_clock(ARCH_CLOCK_READ, &frequency);
	return frequency;
}

/* Raise HF_INTID_VIRTUAL_TIMER when the counter reaches deadline. */
static inline void arch_timer_start(u64 deadline)
{
	arch_clock(ARCH_CLOCK_SET, &deadline);
}

static inline void arch_timer_stop(void)
{
	u64 unused = 0;

	arch_clock(ARCH_CLOCK_STOP, &unused);
}

/* cpu.c: power, by PSCI. Results are PSCI's. For one vCPU only one other at a time may ask. */
#define ARCH_CPUS 8U
s32 arch_cpu_on(u32 index, void *stack_top, void (*function)(void *), void *argument);
s32 arch_cpu_state(u32 index); /* 0 on, 1 off, negative: no such vCPU */
void arch_cpu_off(void);
void arch_cpu_park(void);

/* mmu.c */
void arch_mmu_map(u64 base, u64 size, bool everything);
void arch_mmu_map_page(u64 address);
void arch_mmu_map_registers(u64 address);
void arch_mmu_enable(void);
bool arch_mmu_window(u64 address); /* from exception.c alone */

/* switch.S, cpu.c: threads. Call with interrupts masked. */
void arch_switch(void **save_sp, void *load_sp);
void *arch_thread_prepare(void *stack_top, void (*function)(void *), void *argument);

/* exception.c: the last fault taken, and a place to resume at. */
struct fault {
	u64 syndrome; /* vector << 32 | error code */
	u64 address;  /* CR2 of a page fault, else 0 */
	u64 pc;	      /* RIP */
};

/* How a fault is written: its three numbers. */
#define ARCH_FAULT_FORMAT "syndrome=0x%lx cr2=0x%lx rip=0x%lx"

/* One instruction that may fault. Most look at neither argument, or only at the first. */
typedef int arch_probe(u64 address, u64 value);

/* Call a probe of probe.S, and no other function; true if it faulted, with *fault filled in. The
 * interrupt mask is as before either way. */
bool arch_try(arch_probe *probe, u64 address, u64 value, struct fault *fault);

/* Kinds of fault, for tables of expected ones. A page fault of the guest's own tables is OTHER:
 * the hypervisor marks those that it sends. */
enum fault_class {
	FAULT_NONE,	  /* the probe does not fault */
	FAULT_UNKNOWN,	  /* #UD */
	FAULT_CALL,	  /* #DE: what the svc probe takes */
	FAULT_FETCH,
	FAULT_DATA,
	FAULT_PRIVILEGED, /* #GP */
	FAULT_OTHER,
	FAULT_MISALIGNED = FAULT_NONE,
	FAULT_REGISTER = FAULT_PRIVILEGED,
};

enum fault_class arch_fault_class(const struct fault *fault);

/* probe.S */
arch_probe arch_probe_read, arch_probe_write, arch_probe_exec;
arch_probe arch_probe_undef, arch_probe_svc, arch_probe_align;
arch_probe arch_probe_debug, arch_probe_pmu, arch_probe_apic, arch_probe_vmx;
_Noreturn void arch_die(void);

/* Registers that belong to the machine's owner: {name, probe}. */
#define ARCH_REGISTERS                                                                             \
	{"debug control", arch_probe_debug}, {"performance monitor", arch_probe_pmu},              \
		{"interrupt controller", arch_probe_apic}, {"virtualization", arch_probe_vmx}

#endif
