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
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP (1ull << 1)
#endif

/* Of linux/fs.h, since Linux 6.7. */
struct scan {
	uint64_t size, flags, start, end, walk_end, regions, region_count, page_limit;
	uint64_t inverted, all_of, any_of, returned;
};
struct scanned {
	uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan)
#define SCAN_WRITTEN (1 << 1)
#define SCAN_SWAPPED (1 << 4) /* also the note that a page that is not mapped is protected */

static const uint8_t zero_page[HFS_PAGE];

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
		.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED |
			    UFFD_FEATURE_WP_ASYNC,
	};
	int uffd = new_uffd(user_mode_only);

	if (uffd < 0 || !ioctl(uffd, UFFDIO_API, &api))
		return uffd;
	api = (struct uffdio_api){
		.api = UFFD_API,
		.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM,
	};
	if (ioctl(uffd, UFFDIO_API, &api)) { /* before Linux 6.7 the request above fails */
		int error = -errno;

		close(uffd);
		return error;
	}
	return uffd;
}

int hfs_uffd_register(int uffd, uint64_t address, uint64_t size, bool track)
{
	struct uffdio_register request = {
		.range = { .start = address, .len = size },
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
			(track ? UFFDIO_REGISTER_MODE_WP : 0),
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

/*
 * Return the size of the run from `address` whose pages are all protected, or all not; `*protected`: which.
 * A page that is not mapped is protected if its place in the page tables says so.
 */
static uint64_t run(struct hfs_target target, uint64_t address, uint64_t size, bool *protected)
{
	struct scanned found;
	struct scan scan = {
		.size = sizeof(scan),
		.start = address,
		.end = address + size,
		.regions = (uintptr_t)&found,
		.region_count = 1,
		.inverted = SCAN_WRITTEN,
		.all_of = SCAN_WRITTEN | SCAN_SWAPPED,
	};

	*protected = false;
	if (target.pagemap < 0 || ioctl(target.pagemap, SCAN, &scan) != 1)
		return size;
	*protected = found.start == address;
	return (*protected ? found.end : found.start) - address;
}

struct request {
	struct hfs_target target;
	uint64_t address;
	uint64_t size;
	const uint8_t *source; /* NULL: CONTINUE */
};

/* Issue it once; bytes done, or -errno. */
static int64_t once(const struct request *request, uint64_t done)
{
	uint64_t address = request->address + done;
	bool protected;
	uint64_t size = run(request->target, address, request->size - done, &protected);
	int64_t result;

	if (request->source) {
		struct uffdio_copy copy = {
			.dst = address,
			.src = (uintptr_t)request->source + done,
			.len = size,
			.mode = protected ? UFFDIO_COPY_MODE_WP : 0,
		};

		result = ioctl(request->target.uffd, UFFDIO_COPY, &copy) ? -errno : (int64_t)size;
		return copy.copy > 0 ? copy.copy : result;
	} else {
		struct uffdio_continue more = {
			.range = { .start = address, .len = size },
			.mode = protected ? UFFDIO_CONTINUE_MODE_WP : 0,
		};

		result = ioctl(request->target.uffd, UFFDIO_CONTINUE, &more) ? -errno : (int64_t)size;
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

int hfs_uffd_continue(struct hfs_target target, uint64_t address, uint64_t size)
{
	struct request request = { .target = target, .address = address, .size = size };
	uint64_t done;

	return whole(&request, &done);
}

int hfs_uffd_copy(struct hfs_target target, uint64_t address, const void *source, uint64_t size,
		  uint64_t *done)
{
	struct request request = {
		.target = target, .address = address, .size = size, .source = source
	};

	return whole(&request, done);
}

int hfs_uffd_zero(struct hfs_target target, uint64_t address)
{
	struct uffdio_zeropage request = { .range = { .start = address, .len = HFS_PAGE } };
	int left = RETRIES;
	bool protected;
	uint64_t done;

	run(target, address, HFS_PAGE, &protected);
	if (protected) /* ZEROPAGE protects nothing */
		return hfs_uffd_copy(target, address, zero_page, HFS_PAGE, &done);
	while (ioctl(target.uffd, UFFDIO_ZEROPAGE, &request)) {
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
