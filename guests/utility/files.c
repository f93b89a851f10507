/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Files in the memory behind the image, one after the other; behind the last is the part of the
 * one that is being copied. That has no name before it is whole.
 */
#include "boot.h"
#include "crc32.h"
#include "log.h"
#include "string.h"
#include "utility.h"

#define FILES 16
#define NAME_MAX 255U

struct file {
	char name[NAME_MAX + 1];
	u64 size;
	u32 crc;
};

static struct file files[FILES];
static u32 count;
static u64 used; /* bytes of whole files */

static struct {
	bool open;
	u32 transfer;
	u64 at;
	struct file file; /* the size is what it will be, the CRC that of what has come */
} part;

static u8 *store(u64 *size)
{
	u64 start = (u64)image_end;
	u64 end = memory.fdt ? memory.fdt & ~(PAGE_SIZE - 1) : memory.base + memory.size;

	*size = end > start ? end - start : 0;
	return (u8 *)start;
}

static u32 find(const char *name)
{
	u32 at = 0;

	while (at < count && !equal(files[at].name, name))
		at++;
	return at;
}

static bool is_name(const u8 *bytes, u32 size)
{
	if (!size || size > NAME_MAX || (bytes[0] == '.' && (size == 1 || (size == 2 && bytes[1] == '.'))))
		return false;
	for (u32 i = 0; i < size; i++)
		if (!bytes[i] || bytes[i] == '/')
			return false;
	return true;
}

static void begin(const struct file_request *request, u32 size, struct answer *answer)
{
	u64 room;

	files_cancel();
	if (!is_name(request->bytes, size)) {
		answer->status = SERVICE_MALFORMED;
		return;
	}
	memset(&part, 0, sizeof(part));
	memcpy(part.file.name, request->bytes, size);
	store(&room);
	if (request->number > room - used || find(part.file.name) == FILES) {
		answer_say(answer, SERVICE_FAILED, "no room");
		return;
	}
	part.open = true;
	part.transfer = request->transfer;
	part.file.size = request->number;
}

static const char *data(const struct file_request *request, u32 size)
{
	u64 room;
	u8 *to = store(&room) + used + part.at;

	if (request->number != part.at || size > part.file.size - part.at)
		return "data out of order";
	memcpy(to, request->bytes, size);
	part.file.crc = crc32(part.file.crc, request->bytes, size);
	part.at += size;
	return NULL;
}

/* Remove a whole file: what lies behind it moves down, the part too. */
static void remove(u32 at)
{
	u64 room, offset = 0, size = files[at].size;
	u8 *bytes = store(&room);

	for (u32 i = 0; i < at; i++)
		offset += files[i].size;
	memmove(bytes + offset, bytes + offset + size, used + part.at - offset - size);
	memmove(&files[at], &files[at + 1], (count - at - 1) * sizeof(*files));
	used -= size;
	count--;
}

static const char *end(const struct file_request *request)
{
	u32 before = find(part.file.name);

	if (part.at != part.file.size || part.file.crc != request->number)
		return "not what was sent";
	if (before < count)
		remove(before);
	files[count++] = part.file;
	used += part.file.size;
	part.open = false;
	return NULL;
}

void files_cancel(void)
{
	part.open = false;
}

void files_serve(const struct file_request *request, u32 size, struct answer *answer)
{
	u32 rest = size - (u32)sizeof(*request);
	const char *problem;

	if (request->zero || request->mode > 07777 || request->op < FILE_BEGIN ||
	    request->op > FILE_CANCEL || (request->op >= FILE_END && rest)) {
		answer->status = SERVICE_MALFORMED;
		return;
	}
	if (request->op == FILE_BEGIN) {
		begin(request, rest, answer);
		return;
	}
	if (!part.open || request->transfer != part.transfer) {
		if (request->op != FILE_CANCEL) /* nothing is there, which is what it wants */
			answer_say(answer, SERVICE_NOT_FOUND, "no such transfer");
		return;
	}
	if (request->op == FILE_CANCEL) {
		files_cancel();
		return;
	}
	problem = request->op == FILE_DATA ? data(request, rest) : end(request);
	if (problem) {
		files_cancel();
		answer_say(answer, SERVICE_FAILED, problem);
	}
}

void files_list(char *to, size_t size)
{
	size_t at = 0;

	for (u32 i = 0; i < count && at < size; i++)
		at += format(to + at, size - at, "%s%s %lu %x", i ? "\n" : "", files[i].name,
			     files[i].size, files[i].crc);
	if (!count)
		format(to, size, "no files");
}
