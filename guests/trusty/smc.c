/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The numbers of Trusty's SMC interface that a message's r0 may hold: bit 31 fast, bits 24..29
 * the entity, bits 0..15 the function.
 */
#include "string.h"
#include "trusty.h"

#define FAST (1UL << 31)
#define SECURE_MONITOR (60UL << 24)

#define SC_RESTART_LAST (SECURE_MONITOR | 0)
#define SC_LOCKED_NOP (SECURE_MONITOR | 1)
#define SC_NOP (SECURE_MONITOR | 3)
#define FC_FIQ_EXIT (FAST | SECURE_MONITOR | 1)
#define FC_GET_NEXT_IRQ (FAST | SECURE_MONITOR | 3)
#define FC_CPU_SUSPEND (FAST | SECURE_MONITOR | 7)
#define FC_CPU_RESUME (FAST | SECURE_MONITOR | 8)
#define FC_GET_VERSION_STR (FAST | SECURE_MONITOR | 10)
#define FC_API_VERSION (FAST | SECURE_MONITOR | 11)

#define SM_ERR_UNDEFINED_SMC (~0UL)	   /* -1 */
#define SM_ERR_INVALID_PARAMETERS (~0UL - 1) /* -2 */
#define SM_ERR_UNEXPECTED_RESTART (~0UL - 3) /* -4 */
#define SM_ERR_NOP_DONE (~0UL - 7)	   /* -8 */

#define API_VERSION_SMP_NOP 3

bool smc_is_fast(u64 function)
{
	return function & FAST;
}

/* r1 = -1 asks for the length, else r1 is the index of one character. */
static u64 version_string(u32 index)
{
	static const char version[] = TRUSTY_VERSION;

	if (index == ~0U)
		return strlen(version);
	return index < strlen(version) ? (u8)version[index] : SM_ERR_INVALID_PARAMETERS;
}

u64 smc_fast(const u64 r[4])
{
	switch (r[0]) {
	case FC_API_VERSION:
		/* The caller says what it speaks; the answer is what both do. */
		return r[1] < API_VERSION_SMP_NOP ? r[1] : API_VERSION_SMP_NOP;
	case FC_GET_VERSION_STR:
		return version_string((u32)r[1]);
	case FC_CPU_SUSPEND:
	case FC_CPU_RESUME:
	case FC_FIQ_EXIT:
		return 0;
	case FC_GET_NEXT_IRQ:
		return ~0UL; /* no interrupt is the host's to route here */
	default:
		return SM_ERR_UNDEFINED_SMC;
	}
}

u64 smc_standard(const u64 r[4])
{
	switch (r[0]) {
	case SC_NOP:
		return SM_ERR_NOP_DONE;
	case SC_LOCKED_NOP:
		return 0;
	case SC_RESTART_LAST:
		/* Calls are answered when done: there is never one to restart. */
		return SM_ERR_UNEXPECTED_RESTART;
	default:
		return SM_ERR_UNDEFINED_SMC;
	}
}
