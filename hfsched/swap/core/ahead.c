/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Read-ahead: one read of the file that runs while the worker copies pages.  It uses Linux's native
 * AIO (io_submit(2)), without a thread, which does not block for O_DIRECT only.  Where that is not
 * available, or a read fails, the worker reads synchronously and gets the error from that read.
 */
#define _GNU_SOURCE
#include "ahead.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool ready(struct hfs *swap)
{
	struct hfs_ahead *ahead = &swap->ahead;
	aio_context_t context = 0;

	if (ahead->context || ahead->refused)
		return ahead->context;
	ahead->refused = true;
	if (!swap->direct)
		return false;
	ahead->buffer = aligned_alloc(HFS_PAGE, HFS_RUN * HFS_PAGE);
	if (!ahead->buffer || syscall(SYS_io_setup, 1, &context))
		return false;
	ahead->context = context;
	return true;
}

/* Wait for the end of the read; return whether it has read everything. */
static bool complete(struct hfs_ahead *ahead)
{
	uint64_t size = ahead->count * HFS_PAGE;
	struct io_event event;
	long result;

	do
		result = syscall(SYS_io_getevents, ahead->context, 1, 1, &event, NULL);
	while (result < 0 && errno == EINTR);
	ahead->count = 0;
	return result == 1 && event.res == (int64_t)size;
}

void hfs_ahead_begin(struct hfs *swap, uint64_t slot, uint64_t count)
{
	struct hfs_ahead *ahead = &swap->ahead;
	struct iocb request, *requests = &request;

	hfs_ahead_drop(swap);
	if (!ready(swap))
		return;
	memset(&request, 0, sizeof(request));
	request.aio_lio_opcode = IOCB_CMD_PREAD;
	request.aio_fildes = swap->file_out;
	request.aio_buf = (uintptr_t)ahead->buffer;
	request.aio_nbytes = count * HFS_PAGE;
	request.aio_offset = (int64_t)(slot * HFS_PAGE);
	if (syscall(SYS_io_submit, ahead->context, 1, &requests) != 1)
		return;
	ahead->slot = slot;
	ahead->count = count;
}

uint8_t *hfs_ahead_take(struct hfs *swap, uint64_t slot, uint64_t count)
{
	struct hfs_ahead *ahead = &swap->ahead;
	uint8_t *before = swap->buffer;

	if (slot < ahead->slot || slot + count > ahead->slot + ahead->count) {
		hfs_ahead_drop(swap);
		return NULL;
	}
	if (!complete(ahead))
		return NULL;
	swap->buffer = ahead->buffer;
	ahead->buffer = before;
	return swap->buffer + (slot - ahead->slot) * HFS_PAGE;
}

void hfs_ahead_drop(struct hfs *swap)
{
	if (swap->ahead.count)
		complete(&swap->ahead);
}

void hfs_ahead_close(struct hfs *swap)
{
	hfs_ahead_drop(swap);
	if (swap->ahead.context)
		syscall(SYS_io_destroy, swap->ahead.context);
	free(swap->ahead.buffer);
}
