/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Numbers of the hypercalls: FF-A 1.0 (Arm DEN0077), Hafnium's own, PSCI (Arm DEN0022).
 */
#ifndef GUESTS_HYPERCALLS_H
#define GUESTS_HYPERCALLS_H

#include "arch.h"

#define FFA_ERROR 0x84000060UL
#define FFA_SUCCESS 0x84000061UL
#define FFA_INTERRUPT 0x84000062UL
#define FFA_VERSION 0x84000063UL
#define FFA_FEATURES 0x84000064UL
#define FFA_RX_RELEASE 0x84000065UL
#define FFA_RXTX_MAP 0xc4000066UL
#define FFA_RXTX_UNMAP 0x84000067UL
#define FFA_PARTITION_INFO_GET 0x84000068UL
#define FFA_ID_GET 0x84000069UL
#define FFA_MSG_POLL 0x8400006aUL
#define FFA_MSG_WAIT 0x8400006bUL
#define FFA_YIELD 0x8400006cUL
#define FFA_RUN 0x8400006dUL
#define FFA_MSG_SEND 0x8400006eUL
#define FFA_MSG_SEND_DIRECT_REQ 0x8400006fUL
#define FFA_MSG_SEND_DIRECT_RESP 0x84000070UL
#define FFA_MEM_DONATE 0x84000071UL
#define FFA_MEM_LEND 0x84000072UL
#define FFA_MEM_SHARE 0x84000073UL
#define FFA_MEM_RETRIEVE_REQ 0x84000074UL
#define FFA_MEM_RETRIEVE_RESP 0x84000075UL
#define FFA_MEM_RELINQUISH 0x84000076UL
#define FFA_MEM_RECLAIM 0x84000077UL
#define FFA_MEM_FRAG_RX 0x8400007aUL
#define FFA_MEM_FRAG_TX 0x8400007bUL
#define FFA_ABORT 0x84000090UL
#define FFA_64 0x40000000UL /* or this into an id for its 64-bit form, where it has one */

#define FFA_VERSION_1_0 0x10000UL

#define FFA_NOT_SUPPORTED (-1)
#define FFA_INVALID_PARAMETERS (-2)
#define FFA_NO_MEMORY (-3)
#define FFA_BUSY (-4)
#define FFA_INTERRUPTED (-5)
#define FFA_DENIED (-6)
#define FFA_RETRY (-7)
#define FFA_ABORTED (-8)

#define FFA_MSG_SEND_NOTIFY 1UL
#define FFA_MSG_MAX 4096U

#define HF_MAILBOX_WRITABLE_GET 0xff01UL
#define HF_MAILBOX_WAITER_GET 0xff02UL
#define HF_INTERRUPT_ENABLE 0xff03UL
#define HF_INTERRUPT_GET 0xff04UL
#define HF_INTERRUPT_INJECT 0xff05UL
#define HF_DEBUG_LOG 0xbd000000UL

#define HF_INTID_MAILBOX_READABLE 1U
#define HF_INTID_MAILBOX_WRITABLE 2U
#define HF_INTID_VIRTUAL_TIMER 3U
#define HF_INTID_INVALID 0xffffffffU

#define PRIMARY_ID 1U

#define PSCI_VERSION 0x84000000UL
#define PSCI_CPU_SUSPEND 0xc4000001UL
#define PSCI_CPU_OFF 0x84000002UL
#define PSCI_CPU_ON 0xc4000003UL
#define PSCI_AFFINITY_INFO 0xc4000004UL
#define PSCI_SYSTEM_OFF 0x84000008UL
#define PSCI_SYSTEM_RESET 0x84000009UL
#define PSCI_FEATURES 0x8400000aUL
#define PSCI_NOT_SUPPORTED (-1)
#define PSCI_INVALID_PARAMETERS (-2)
#define PSCI_ALREADY_ON (-4)

static inline struct call hypercall(u64 id, u64 a1, u64 a2, u64 a3, u64 a4)
{
	return arch_hypercall((struct call){{id, a1, a2, a3, a4}});
}

/* 0, or the error code of an FF-A result. */
static inline s32 ffa_error(const struct call *result)
{
	return result->r[0] == FFA_ERROR ? (s32)result->r[2] : 0;
}

static inline void ffa_yield(void)
{
	hypercall(FFA_YIELD, 0, 0, 0, 0);
}

/* The lowest pending interrupt that is enabled, which it clears, or HF_INTID_INVALID. */
static inline u32 hf_interrupt_get(void)
{
	return (u32)hypercall(HF_INTERRUPT_GET, 0, 0, 0, 0).r[0];
}

static inline s64 hf_interrupt_enable(u32 intid, bool enable)
{
	return (s64)hypercall(HF_INTERRUPT_ENABLE, intid, enable, 0, 0).r[0];
}

static inline s64 hf_interrupt_inject(u32 vm, u32 vcpu, u32 intid)
{
	return (s64)hypercall(HF_INTERRUPT_INJECT, vm, vcpu, intid, 0).r[0];
}

/* A VM whose mailbox became writable since a send to it was refused, or -1. */
static inline s64 hf_mailbox_writable_get(void)
{
	return (s64)hypercall(HF_MAILBOX_WRITABLE_GET, 0, 0, 0, 0).r[0];
}

#endif
