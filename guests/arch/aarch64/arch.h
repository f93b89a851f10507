/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * arm64: what the portable code asks of the processor. Each architecture
 * provides a header of this name with the same functions, and the same files.
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

/* The registers of a hypercall: x0..x7, arguments in, results out. */
struct call {
	u64 r[8];
};

#define ARCH_CALL(insn, c)                                                                         \
	register u64 x0 __asm__("x0") = (c).r[0];                                                  \
	register u64 x1 __asm__("x1") = (c).r[1];                                                  \
	register u64 x2 __asm__("x2") = (c).r[2];                                                  \
	register u64 x3 __asm__("x3") = (c).r[3];                                                  \
	register u64 x4 __asm__("x4") = (c).r[4];                                                  \
	register u64 x5 __asm__("x5") = (c).r[5];                                                  \
	register u64 x6 __asm__("x6") = (c).r[6];                                                  \
	register u64 x7 __asm__("x7") = (c).r[7];                                                  \
	__asm__ volatile(insn                                                                      \
			 : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5), "+r"(x6),   \
			   "+r"(x7)                                                                \
			 :                                                                         \
			 : "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",     \
			   "memory");                                                              \
	return (struct call){{x0, x1, x2, x3, x4, x5, x6, x7}}

/* HVC, the usual conduit: every hypercall. */
static inline struct call arch_hypercall(struct call c)
{
	ARCH_CALL("hvc #0", c);
}

/* SMC, the firmware's conduit: PSCI, and FF-A where the hypervisor takes it there too. */
static inline struct call arch_firmware_call(struct call c)
{
	ARCH_CALL("smc #0", c);
}

static inline void arch_irq_unmask(void)
{
	__asm__ volatile("msr daifclr, #2" ::: "memory");
}

static inline void arch_irq_mask(void)
{
	__asm__ volatile("msr daifset, #2" ::: "memory");
}

/* Mask; true if interrupts were unmasked before. */
static inline bool arch_irq_save(void)
{
	u64 daif;

	__asm__ volatile("mrs %0, daif" : "=r"(daif));
	arch_irq_mask();
	return !(daif & (1U << 7));
}

static inline void arch_irq_restore(bool unmasked)
{
	if (unmasked)
		arch_irq_unmask();
}

/* Take what is pending and nothing later. The ISB makes it certain: a pending, unmasked
 * interrupt is taken before the first instruction after it. */
static inline void arch_irq_window(void)
{
	__asm__ volatile("msr daifclr, #2\n\tisb\n\tmsr daifset, #2" ::: "memory");
}

/* What is stored before is seen before what is stored after. */
static inline void arch_barrier(void)
{
	__asm__ volatile("dmb ish" ::: "memory");
}

/* A device's register. A load or store that also changes its address register tells a hypervisor
 * nothing of the access: none of those. */
static inline u32 arch_register_read(u64 address)
{
	u32 value;

	__asm__ volatile("ldr %w0, [%1]" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void arch_register_write(u64 address, u32 value)
{
	__asm__ volatile("str %w0, [%1]" ::"rZ"(value), "r"(address) : "memory");
}

/* Sleep until an interrupt is pending, masked or not. */
static inline void arch_wait_for_interrupt(void)
{
	__asm__ volatile("dsb sy\n\twfi" ::: "memory");
}

/* What a leaf of x86's CPUID says; false: there is no such instruction. */
static inline bool arch_cpuid(u32 leaf, u32 out[4])
{
	(void)leaf;
	(void)out;
	return false;
}

static inline u64 arch_counter(void)
{
	u64 value;

	__asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(value)::"memory");
	return value;
}

static inline u64 arch_counter_frequency(void)
{
	u64 value;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(value));
	return value;
}

/* Raise HF_INTID_VIRTUAL_TIMER when the counter reaches deadline. */
static inline void arch_timer_start(u64 deadline)
{
	__asm__ volatile("msr cntv_cval_el0, %0\n\tmsr cntv_ctl_el0, %1\n\tisb" ::"r"(deadline),
			 "r"(1UL)
			 : "memory");
}

static inline void arch_timer_stop(void)
{
	__asm__ volatile("msr cntv_ctl_el0, xzr\n\tisb" ::: "memory");
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

/* switch.S, cpu.c: threads. Call with interrupts masked. */
void arch_switch(void **save_sp, void *load_sp);
void *arch_thread_prepare(void *stack_top, void (*function)(void *), void *argument);

/* exception.c: the last fault taken, and a place to resume at. */
struct fault {
	u64 syndrome; /* ESR */
	u64 address;  /* FAR */
	u64 pc;       /* ELR */
};

/* How a fault is written: its three numbers. */
#define ARCH_FAULT_FORMAT "esr=0x%lx far=0x%lx elr=0x%lx"

/* One instruction that may fault. Most look at neither argument, or only at the first. */
typedef int arch_probe(u64 address, u64 value);

/* Call a probe of probe.S, and no other function; true if it faulted, with *fault filled in. The
 * interrupt mask is as before either way. */
bool arch_try(arch_probe *probe, u64 address, u64 value, struct fault *fault);

/* Kinds of fault, for tables of expected ones: the syndrome's classes. */
enum fault_class {
	FAULT_NONE = -1, /* the probe does not fault */
	FAULT_UNKNOWN = 0x00,
	FAULT_CALL = 0x15,
	FAULT_FETCH = 0x21,
	FAULT_DATA = 0x25,
	FAULT_MISALIGNED = FAULT_DATA,
	FAULT_REGISTER = FAULT_UNKNOWN,
};

static inline enum fault_class arch_fault_class(const struct fault *fault)
{
	return (enum fault_class)(fault->syndrome >> 26 & 0x3f);
}

/* probe.S */
arch_probe arch_probe_read, arch_probe_write, arch_probe_exec;
arch_probe arch_probe_undef, arch_probe_svc, arch_probe_align;
arch_probe arch_probe_debug, arch_probe_pmu, arch_probe_gic, arch_probe_lor;
_Noreturn void arch_die(void);

/* Registers that belong to the machine's owner: {name, probe}. */
#define ARCH_REGISTERS                                                                             \
	{"debug register", arch_probe_debug}, {"performance monitor", arch_probe_pmu},             \
		{"interrupt controller", arch_probe_gic}, {"limited ordering", arch_probe_lor}

#endif
