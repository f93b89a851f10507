/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * userfaultfd's requests, by address in the member's process.  0 or a negative errno; -ESRCH: the
 * process is dead, -ENOENT: nothing is registered there.  A request that stops part-way (EAGAIN)
 * is continued.  hfs_uffd_open, hfs_uffd_probe and hfs_zap are in core.h.
 */
#ifndef HFSCHED_SWAP_UFFD_H
#define HFSCHED_SWAP_UFFD_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Where pages arrive.  A page that is write-protected there (see hfsched.memory.writeprotect) stays so, and
 * one that is not does not become so: it has been written.  `pagemap`: the process's page tables,
 * -1: none is protected.
 */
struct hfs_target {
	int uffd;
	int pagemap;
};

/*
 * [address, address + size), both multiples of HFS_PAGE.  `track`: for write protection too.
 * -EOPNOTSUPP: a request is not offered.
 */
int hfs_uffd_register(int uffd, uint64_t address, uint64_t size, bool track);
int hfs_uffd_unregister(int uffd, uint64_t address, uint64_t size);
int hfs_uffd_wake(int uffd, uint64_t address, uint64_t size);
/*
 * Map pages that are in the memfd.  A page that is mapped already, or is not in memory, is skipped;
 * for a range of one page that is the result: -EEXIST, -EFAULT.
 */
int hfs_uffd_continue(struct hfs_target target, uint64_t address, uint64_t size);
/* Map a zero page. */
int hfs_uffd_zero(struct hfs_target target, uint64_t address);
/* Copy `size` bytes in; `*done` of them, from `address` on, are there now.  -EEXIST: as above. */
int hfs_uffd_copy(struct hfs_target target, uint64_t address, const void *source, uint64_t size,
		  uint64_t *done);

#endif
