/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * userfaultfd's requests.  COPY and CONTINUE over a range may stop part-way, and are continued.
 */
#define _GNU_SOURCE
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

#define PROBE (1ull << 20) /* an address where no process has guest memory */
#define RETRIES 256 /* of a request that fails with EAGAIN without progress */

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static int new_uffd(int user_mode_only)
{
	int flags = O_CLOEXEC | O_NONBLOCK, device, uffd;

	uffd = (int)syscall(SYS_userfaultfd, flags | (user_mode_only ? UFFD_USER_MODE_ONLY : 0));
	if (uffd >= 0 || user_mode_only || errno != EPERM)
		return uffd < 0 ? -errno : uffd;
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -EPERM;
	uffd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
	if (uffd < 0)
		uffd = -errno;
	close(device);
	return uffd;
}

int hfs_uffd_open(int user_mode_only)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM,
	};
	int uffd = new_uffd(user_mode_only);

	if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api)) {
		int error = -errno;

		close(uffd);
		return error;
	}
	return uffd;
}

int hfs_uffd_register(int uffd, uint64_t address, uint64_t size)
{
	struct uffdio_register request = {
		.range = { .start = address, .len = size },
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
	};
	uint64_t wanted = 1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE |
			  1ull << _UFFDIO_CONTINUE | 1ull << _UFFDIO_WAKE;

	if (ioctl(uffd, UFFDIO_REGISTER, &request))
		return -errno;
	return (request.ioctls & wanted) == wanted ? 0 : -EOPNOTSUPP;
}

int hfs_uffd_unregister(int uffd, uint64_t address, uint64_t size)
{
	struct uffdio_range range = { .start = address, .len = size };

	return ioctl(uffd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

/*
 * Where nothing is registered the result is ENOENT for a living process.  Not at address 0: most
 * kernels return EINVAL below vm.mmap_min_addr, for a dead process too.
 */
int hfs_uffd_probe(int uffd)
{
	struct uffdio_continue request = { .range = { .start = PROBE, .len = HFS_PAGE } };

	return ioctl(uffd, UFFDIO_CONTINUE, &request) && errno != ENOENT ? -errno : 0;
}

int hfs_uffd_wake(int uffd, uint64_t address, uint64_t size)
{
	struct uffdio_range range = { .start = address, .len = size };

	return ioctl(uffd, UFFDIO_WAKE, &range) ? -errno : 0;
}

struct request {
	int uffd;
	uint64_t address;
	uint64_t size;
	const uint8_t *source; /* NULL: CONTINUE */
};

/* Issue it once; bytes done, or -errno. */
static int64_t once(const struct request *request, uint64_t done)
{
	uint64_t address = request->address + done, size = request->size - done;
	int64_t result;

	if (request->source) {
		struct uffdio_copy copy = {
			.dst = address,
			.src = (uintptr_t)request->source + done,
			.len = size,
		};

		result = ioctl(request->uffd, UFFDIO_COPY, &copy) ? -errno : (int64_t)size;
		return copy.copy > 0 ? copy.copy : result;
	} else {
		struct uffdio_continue more = { .range = { .start = address, .len = size } };

		result = ioctl(request->uffd, UFFDIO_CONTINUE, &more) ? -errno : (int64_t)size;
		return more.mapped > 0 ? more.mapped : result;
	}
}

/* Issue it until it is complete.  `*done`: bytes that are there now. */
static int whole(const struct request *request, uint64_t *done)
{
	int left = RETRIES;
	int64_t result;

	*done = 0;
	while (*done < request->size) {
		result = once(request, *done);
		if (result > 0) {
			*done += result;
			left = RETRIES;
		} else if (result == -EAGAIN && left-- > 0) {
			sched_yield();
		} else if (request->size > HFS_PAGE && (result == -EEXIST || result == -EFAULT)) {
			*done += HFS_PAGE;
		} else {
			return result ? (int)result : -EAGAIN;
		}
	}
	return 0;
}

int hfs_uffd_continue(int uffd, uint64_t address, uint64_t size)
{
	struct request request = { .uffd = uffd, .address = address, .size = size };
	uint64_t done;

	return whole(&request, &done);
}

int hfs_uffd_copy(int uffd, uint64_t address, const void *source, uint64_t size, uint64_t *done)
{
	struct request request = {
		.uffd = uffd, .address = address, .size = size, .source = source
	};

	return whole(&request, done);
}

int hfs_uffd_zero(int uffd, uint64_t address)
{
	struct uffdio_zeropage request = { .range = { .start = address, .len = HFS_PAGE } };
	int left = RETRIES;

	while (ioctl(uffd, UFFDIO_ZEROPAGE, &request)) {
		if (errno != EAGAIN || left-- == 0)
			return -errno;
		sched_yield();
	}
	return 0;
}

int hfs_zap(uint64_t address, uint64_t size)
{
	return madvise((void *)(uintptr_t)address, size, MADV_DONTNEED) ? -errno : 0;
}
