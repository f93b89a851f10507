/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * block: a driver of a virtio block device, which it finds in the FDT, and commands for it. It
 * releases a message when it has answered it.
 *
 * A request that was in flight when the device needed a reset is answered with an error.
 */
#include "boot.h"
#include "crc32.h"
#include "hypercalls.h"
#include "log.h"
#include "mailbox.h"
#include "string.h"
#include "text.h"
#include "virtio.h"

#define BLOCK 2U /* the type of device */
#define FLUSH (1UL << 9)
#define SECTOR 512U
#define PART 8U /* sectors of a request, at most */
#define ANSWER_MAX 640U

enum kind { READ = 0, WRITE = 1, SYNC = 4 };

const char guest_name[] = "block";

struct request {
	struct {
		u32 kind, reserved;
		u64 sector;
	} header;
	u32 sectors;
	u8 status;
	u8 data[PART * SECTOR] __attribute__((aligned(SECTOR)));
};

static struct request requests[REQUESTS];
static struct virtio disk;
static u64 capacity; /* sectors */

static const char *open_disk(void)
{
	const char *wrong = virtio_open(&disk, memory.virtio[0], BLOCK, FLUSH);

	if (!wrong)
		capacity = virtio_config64(&disk, 0);
	return wrong;
}

static void begin(u32 index, enum kind kind, u64 sector, u32 sectors)
{
	struct request *request = &requests[index];
	u32 size = sectors * SECTOR;

	request->header.kind = kind;
	request->header.sector = sector;
	request->sectors = sectors;
	request->status = 0xff;
	virtio_send(&disk, index,
		    (struct buffer[3]){
			    {&request->header, sizeof(request->header), false},
			    {request->data, size, kind == READ},
			    {&request->status, 1, true},
		    });
}

/* NULL, or what is wrong. */
static const char *complete(int request)
{
	if (request < 0) {
		const char *wrong = open_disk();

		return wrong ? wrong : "the device needed a reset";
	}
	return requests[request].status ? "the device says that it failed" : NULL;
}

static const char *one(enum kind kind, u64 sector, u32 sectors)
{
	begin(0, kind, sector, sectors);
	return complete(virtio_wait(&disk));
}

/* Carry out requests for [first, first + count), in parts, at most so many in flight. prepare
 * fills one before it is sent, or is NULL: then they are read. Parts are done in any order, and
 * sums has a CRC for each, of what is read. */
static const char *many(u64 first, u64 count, u32 depth, u32 part, void (*prepare)(struct request *, u64),
			u32 *sums)
{
	u64 next = 0, parts = (count + part - 1) / part, done = 0;
	u64 which[REQUESTS];

	while (done < parts) {
		const char *wrong;
		int ended;

		for (u32 i = 0; i < depth && next < parts; i++) {
			u64 at = next * part;

			if (disk.in_flight & 1U << i)
				continue;
			which[i] = next++;
			if (prepare)
				prepare(&requests[i], first + at);
			begin(i, prepare ? WRITE : READ, first + at,
			      (u32)(count - at < part ? count - at : part));
		}
		ended = virtio_wait(&disk);
		wrong = complete(ended);
		if (wrong) {
			/* The others are not left behind. */
			while (disk.in_flight && complete(virtio_wait(&disk)) == NULL)
				;
			return wrong;
		}
		if (sums)
			sums[which[ended]] = crc32(0, requests[ended].data,
						   requests[ended].sectors * SECTOR);
		done++;
	}
	return NULL;
}

/* A sector's number, as text. */
static void number(struct request *request, u64 sector)
{
	memset(request->data, 0, SECTOR);
	format((char *)request->data, SECTOR, "sector %lu", sector);
}

#define SUMS 2048U /* parts, whose sums are summed up */

static size_t sum(u64 first, u64 count, char *answer)
{
	static u32 sums[SUMS];
	u32 all = 0;

	while (count) {
		u64 some = count < SUMS * PART ? count : SUMS * PART;
		const char *wrong = many(first, some, REQUESTS, PART, NULL, sums);

		if (wrong)
			return format(answer, ANSWER_MAX, "error: %s", wrong);
		all = crc32(all, sums, (some + PART - 1) / PART * sizeof(sums[0]));
		first += some;
		count -= some;
	}
	return format(answer, ANSWER_MAX, "0x%x", all);
}

static size_t run(const char *text, char *answer)
{
	u64 first, count, depth = 1;
	const char *wrong;

	if (equal(text, "size"))
		return format(answer, ANSWER_MAX, "%lu sectors", capacity);
	if (equal(text, "state"))
		return format(answer, ANSWER_MAX, "completed %lu odd %lu", disk.completed, disk.odd);
	if (equal(text, "flush")) {
		wrong = disk.features & FLUSH ? one(SYNC, 0, 0) : "it has no cache";
		if (!wrong)
			return format(answer, ANSWER_MAX, "flushed");
	} else if (text_word(&text, "read") && text_number(&text, &first)) {
		wrong = one(READ, first, 1);
		if (!wrong) {
			size_t size = SECTOR;

			while (size && !requests[0].data[size - 1])
				size--;
			memcpy(answer, requests[0].data, size);
			return size;
		}
	} else if (text_word(&text, "write") && text_number(&text, &first)) {
		size_t size = strlen(text);

		memset(requests[0].data, 0, SECTOR);
		memcpy(requests[0].data, text, size < SECTOR ? size : SECTOR);
		wrong = one(WRITE, first, 1);
		if (!wrong)
			return format(answer, ANSWER_MAX, "wrote %lu", first);
	} else if (text_word(&text, "sum") && text_number(&text, &first) &&
		   text_number(&text, &count)) {
		return sum(first, count, answer);
	} else if (text_word(&text, "number") && text_number(&text, &first) &&
		   text_number(&text, &count)) {
		text_number(&text, &depth);
		depth = depth && depth < REQUESTS ? depth : REQUESTS;
		wrong = many(first, count, (u32)depth, 1, number, NULL);
		if (!wrong)
			return format(answer, ANSWER_MAX, "numbered %lu", count);
	} else {
		return format(answer, ANSWER_MAX,
			      "commands: size, read SECTOR, write SECTOR TEXT, sum FIRST COUNT, "
			      "number FIRST COUNT [DEPTH], flush, state");
	}
	return format(answer, ANSWER_MAX, "error: %s", wrong);
}

static void serve(const struct message *message)
{
	static char command[PAYLOAD_MAX + 1];
	static char answer[ANSWER_MAX];
	struct ports ports;
	size_t size;

	if (message->size >= sizeof(ports)) {
		memcpy(&ports, mailbox_rx, sizeof(ports));
		size = message->size - sizeof(ports);
		memcpy(command, mailbox_rx + sizeof(ports), size);
		text_end(command, size);
		size = run(command, answer);
		(void)mailbox_send_yielding(message->sender, mailbox_compose(&ports, answer, size));
	}
	mailbox_release();
}

void guest_main(void)
{
	struct message message;
	const char *wrong;

	mailbox_open();
	if (!memory.virtio_count)
		boot_stop("the FDT has no virtio device");
	hf_interrupt_enable(memory.virtio_intid[0], true);
	wrong = open_disk();
	if (wrong)
		boot_stop(wrong);
	log_line("block: up, %lu sectors", capacity);
	for (;;) {
		if (mailbox_wait(&message)) {
			serve(&message);
		} else if (virtio_acknowledge(&disk)) {
			capacity = virtio_config64(&disk, 0);
			log_line("block: %lu sectors", capacity);
		}
	}
}
