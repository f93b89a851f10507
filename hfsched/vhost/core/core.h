/*
 * Memory that is shared with a process that is not trusted.
 *
 * That process may shrink the file behind a mapping, and an access raises SIGBUS then.  These functions return -EFAULT
 * instead; a copy may have been done in part.  All are for any thread.
 */
#ifndef HFS_VHOST_CORE_H
#define HFS_VHOST_CORE_H

#include <stdint.h>

/* Have SIGBUS caught; once in a process, before any other function.  0, or a negative errno. */
int hfv_open(void);

/* Copy `size` bytes from or to shared memory. */
int hfv_read(uint8_t *to, uint64_t from, uint64_t size);
int hfv_write(uint64_t to, const uint8_t *from, uint64_t size);
int hfv_fill(uint64_t to, int byte, uint64_t size);

/* Load and store u16 at an even address: the load is an acquire, the store a release. */
int hfv_load16(uint64_t from);
int hfv_store16(uint64_t to, uint16_t value);

/* Set bits in a byte, atomically. */
int hfv_or8(uint64_t to, uint8_t bits);

/* A full fence. */
void hfv_fence(void);

#endif
