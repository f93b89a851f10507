/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Memory sharing calls with one thing wrong in each (DEN0077 1.0, chapter 11). None succeeds, so
 * no memory changes hands.
 */
#include "boot.h"
#include "hostile.h"
#include "log.h"
#include "string.h"

/* A memory transaction descriptor for one receiver and one range. */
struct descriptor {
	u16 sender;
	u8 attributes;
	u8 reserved_0;
	u32 flags;
	u64 handle;
	u64 tag;
	u32 reserved_1;
	u32 receiver_count;
	/* The receiver. */
	u16 receiver;
	u8 permissions;
	u8 receiver_flags;
	u32 composite_offset;
	u64 reserved_2;
	/* The composite. */
	u32 page_count;
	u32 range_count;
	u64 reserved_3;
	/* The range. */
	u64 address;
	u32 range_pages;
	u32 reserved_4;
};

#define NORMAL_MEMORY 0x2f /* normal, write-back, inner shareable */
#define DATA_NONE 0
#define DATA_RW 2
#define DATA_RESERVED 3
#define EXECUTE_NEVER (1 << 2)
#define CLEAR 1U
#define UNKNOWN_FLAG (1U << 15)

/* A hypervisor whose FEATURES does not know the calls must refuse them all alike. */
static bool supported;

static u8 page[PAGE_SIZE] __attribute__((aligned(4096)));

/* A descriptor that SHARE would take, for a page of this image. */
static struct descriptor *valid(void)
{
	struct descriptor *d = (struct descriptor *)mailbox_tx;

	*d = (struct descriptor){
		.sender = (u16)mailbox_self,
		.attributes = NORMAL_MEMORY,
		.receiver_count = 1,
		.receiver = PRIMARY_ID,
		.permissions = DATA_RW,
		.composite_offset = offsetof(struct descriptor, page_count),
		.page_count = 1,
		.range_count = 1,
		.address = (u64)page,
		.range_pages = 1,
	};
	return d;
}

static void expect(struct tally *tally, const char *name, u64 function, u64 total, u64 part,
		   s32 error)
{
	struct call result = hypercall(function, total, part, 0, 0);

	if (!supported)
		error = FFA_NOT_SUPPORTED;
	tally->checks++;
	if (ffa_error(&result) == error)
		return;
	tally->wrong++;
	log_line("hostile: %s: x0=0x%lx x2=0x%lx, expected %d", name, result.r[0], result.r[2],
		 error);
}

/* With the descriptor in mailbox_tx. */
static void send(struct tally *tally, const char *name, u64 function, s32 error)
{
	expect(tally, name, function, sizeof(struct descriptor), sizeof(struct descriptor), error);
}

static void check_descriptors(struct tally *tally)
{
	const s32 invalid = FFA_INVALID_PARAMETERS;

	valid()->sender = PRIMARY_ID;
	send(tally, "share as another", FFA_MEM_SHARE, invalid);
	valid()->receiver = (u16)mailbox_self;
	send(tally, "share with oneself", FFA_MEM_SHARE, invalid);
	valid()->receiver = 0x7777;
	send(tally, "share with nobody", FFA_MEM_SHARE, invalid);
	valid()->receiver_count = 0;
	send(tally, "share, no receiver", FFA_MEM_SHARE, invalid);
	valid()->receiver_count = 0xffffffff;
	send(tally, "share, 2^32 - 1 receivers", FFA_MEM_SHARE, invalid);
	valid()->composite_offset = 4090;
	send(tally, "share, composite past the end", FFA_MEM_SHARE, invalid);
	valid()->composite_offset = 0xfffffff0;
	send(tally, "share, composite far past the end", FFA_MEM_SHARE, invalid);
	valid()->range_count = 0xffffffff;
	send(tally, "share, 2^32 - 1 ranges", FFA_MEM_SHARE, invalid);
	valid()->page_count = 2;
	send(tally, "share, page counts disagree", FFA_MEM_SHARE, invalid);
	valid()->address += 8;
	send(tally, "share, misaligned", FFA_MEM_SHARE, invalid);
	valid()->flags = CLEAR;
	send(tally, "share, cleared", FFA_MEM_SHARE, invalid);
	valid()->flags = UNKNOWN_FLAG;
	send(tally, "share, unknown flag", FFA_MEM_SHARE, invalid);
	valid()->permissions = DATA_NONE;
	send(tally, "share without access", FFA_MEM_SHARE, invalid);
	valid()->permissions = DATA_RESERVED;
	send(tally, "share, reserved access", FFA_MEM_SHARE, invalid);
	valid()->permissions = DATA_RW | EXECUTE_NEVER;
	send(tally, "share, instruction access", FFA_MEM_SHARE, invalid);
	valid()->permissions = DATA_NONE;
	send(tally, "lend without access", FFA_MEM_LEND, invalid);
	valid();
	send(tally, "donate with data access", FFA_MEM_DONATE, invalid);

	valid()->address = memory.base + (memory.size & ~(PAGE_SIZE - 1));
	send(tally, "share the page behind", FFA_MEM_SHARE, FFA_DENIED);
	valid()->address = memory.base - PAGE_SIZE;
	send(tally, "share the page before", FFA_MEM_SHARE, FFA_DENIED);
	valid()->address = (u64)mailbox_rx;
	send(tally, "share the RX page", FFA_MEM_SHARE, FFA_DENIED);
}

void check_memory_calls(struct tally *tally)
{
	const s32 invalid = FFA_INVALID_PARAMETERS;
	const u64 size = sizeof(struct descriptor);
	/* {handle, flags, count, endpoint}: a handle that was never given out. */
	const u64 relinquish[3] = {~0UL >> 1, 1UL << 32, mailbox_self};

	struct call features = hypercall(FFA_FEATURES, FFA_MEM_SHARE, 0, 0, 0);

	supported = features.r[0] == FFA_SUCCESS;
	check_descriptors(tally);
	valid();
	expect(tally, "share, no length", FFA_MEM_SHARE, 0, 0, invalid);
	expect(tally, "share, short", FFA_MEM_SHARE, size - 1, size - 1, invalid);
	expect(tally, "share, part above total", FFA_MEM_SHARE, size, size + 16, invalid);
	expect(tally, "share, part above a page", FFA_MEM_SHARE, 8192, 8192, invalid);
	expect(tally, "retrieve, no length", FFA_MEM_RETRIEVE_REQ, 0, 0, invalid);
	valid()->handle = ~0UL >> 1;
	expect(tally, "retrieve an unknown handle", FFA_MEM_RETRIEVE_REQ, size, size, invalid);
	memcpy(mailbox_tx, relinquish, sizeof(relinquish));
	expect(tally, "relinquish an unknown handle", FFA_MEM_RELINQUISH, 0, 0, invalid);
	expect(tally, "reclaim an unknown handle", FFA_MEM_RECLAIM, 0xffffffff, 0x7fffffff,
	       invalid);
	expect(tally, "fragment of an unknown handle", FFA_MEM_FRAG_RX, 0xffffffff, 0x7fffffff,
	       invalid);
	memset(mailbox_tx, 0, sizeof(struct descriptor));
}
