"""Real vhost-user front-ends for tests, and a real back-end to try them with.

- `packages`: QEMU 10, qemu-storage-daemon and libblkio, unpacked from Debian packages into the cache
  of `script/qemu`; nothing is installed.
- `linux`: a Linux guest of QEMU (TCG), to which tests type shell lines; devices are hot-plugged into
  a guest that was booted once and is restored for each test; migration to files.
- `blkio`: libblkio, a front-end of vhost-user-blk without a VM; blkio-bench and blkio-copy.
- `storage_daemon`: qemu-storage-daemon as a back-end.

A test that needs them calls :func:`frontends.packages.programs` (or makes a guest, a client or a
daemon, which do), and is skipped with the reason where they cannot be had. What is started here is
used in a ``with``; the front-end is to be the inner one, since QEMU may abort if its back-end ends
before it does.
"""
