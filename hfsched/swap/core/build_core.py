"""Builds the extension `_core` (cffi, API mode): the compiler checks `_CDEF` against the headers.

pip runs it through ``setup.py``; ``python -m hfsched.swap.core.build_core`` builds in the source tree.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cffi import FFI

__all__ = ["builder"]

_HERE = Path(__file__).resolve().parent
_TOP = _HERE.parents[2]

_CDEF = """
#define HFS_REGIONS ...
#define HFS_MEMBERS ...
#define HFS_QUEUE ...
#define HFS_RUN ...
#define HFS_LOG ...
#define HFS_LOGGED_OFFSET ...
#define HFS_TRACKED_OFFSET ...
#define HFS_DAMAGED_OFFSET ...
#define HFS_PHASE_OFFSET ...
#define HFS_LAYERS ...
#define HFS_STATES ...
#define HFS_EVENTS ...
enum hfs_member_state { HFS_FREE, HFS_ALIVE, HFS_DEAD, ... };

struct hfs_table { uint64_t pages; ...; };
struct hfs;
struct hfs_progress {
    uint64_t moved; uint64_t zero; uint64_t clean; int done; int error; int place;
    int fills; ...;
};
struct hfs_counts {
    uint64_t states[...]; uint64_t stale; uint64_t tier_used; uint64_t events[...]; int phase; ...;
};

int hfs_table_open(struct hfs_table *table, int fd, uint64_t pages, int copy);
void hfs_table_close(struct hfs_table *table);
uint64_t hfs_entry(struct hfs_table *table, uint64_t page);
void hfs_set_entry(struct hfs_table *table, uint64_t page, uint64_t entry);
int hfs_store_runs(struct hfs_table *table, const uint64_t *runs, uint64_t count);
bool hfs_stage_page(struct hfs_table *table, uint64_t page);
bool hfs_move(struct hfs_table *table, uint64_t page);
bool hfs_moved(struct hfs_table *table, uint64_t page);
bool hfs_unstage_page(struct hfs_table *table, uint64_t page);
bool hfs_claim(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_unclaim(struct hfs_table *table, uint64_t page);
bool hfs_publish(struct hfs_table *table, uint64_t page, int copy, uint64_t location,
                 uint32_t length);
bool hfs_drop_zero(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_discard_page(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_drop_clean(struct hfs_table *table, uint64_t page);
bool hfs_punched(struct hfs_table *table, uint64_t page);
bool hfs_restored(struct hfs_table *table, uint64_t page, uint64_t *old);
int hfs_fault(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_untake(struct hfs_table *table, uint64_t page);
bool hfs_arrived(struct hfs_table *table, uint64_t page, uint64_t *old);
bool hfs_release_page(struct hfs_table *table, uint64_t page, uint64_t *old);
void hfs_take_over_page(struct hfs_table *table, uint64_t page, bool in_memory, bool settled);
void hfs_count(struct hfs_table *table, struct hfs_counts *counts);

struct hfs_frames { ...; };
struct hfs_frame_reader { ...; };
int hfs_frames_open(struct hfs_frames *frames, int fd, const int *layers, int count, uint64_t pages);
void hfs_frames_close(struct hfs_frames *frames);
int hfs_reader_open(struct hfs_frame_reader *reader);
void hfs_reader_close(struct hfs_frame_reader *reader);
const uint8_t *hfs_stored_page(const struct hfs_frames *frames, struct hfs_frame_reader *reader,
                               uint64_t location);
uint32_t hfs_crc32(const uint8_t *bytes, uint64_t size);

int hfs_uffd_open(int user_mode_only);
int hfs_uffd_probe(int uffd);
int hfs_alarm_open(void);
int hfs_zap(uint64_t address, uint64_t size);
const char *hfs_tier_problem(void);

struct hfs *hfs_new(int table_fd, uint64_t pages, int copy, int around);
int hfs_add_region(struct hfs *swap, int fd, uint64_t pages);
int hfs_add_region_to_read(struct hfs *swap, int fd, uint64_t pages);
int hfs_set_file(struct hfs *swap, int file_out, int file_in);
int hfs_set_tier(struct hfs *swap, int fd, uint64_t size, uint64_t limit);
int hfs_set_staging(struct hfs *swap, int fd);
int hfs_set_stored(struct hfs *swap, int fd, const int *layers, int count, int alarm);
int hfs_set_aside(struct hfs *swap, int fd);
uint64_t hfs_aside_size(uint64_t pages);
int hfs_add_member(struct hfs *swap, int uffd, int pagemap, int dynamic, const uint64_t *base);
int hfs_remove_member(struct hfs *swap, int member);
int hfs_member_state(struct hfs *swap, int member);
int64_t hfs_in_memory(struct hfs *swap);
int64_t hfs_peek(struct hfs *swap, uint64_t first, uint64_t count, uint8_t *buffer, bool *zero);
void hfs_counts(struct hfs *swap, struct hfs_counts *counts);
int hfs_phase_now(struct hfs *swap);
uint64_t hfs_faults(struct hfs *swap);
void hfs_owe_nothing(struct hfs *swap);
void hfs_owe(struct hfs *swap, uint64_t first, uint64_t count);
int64_t hfs_take_owed(struct hfs *swap, uint64_t first, uint64_t count, uint8_t *buffer, bool *zero);
void hfs_stop_owing(struct hfs *swap);
void hfs_drop_aside(struct hfs *swap);
void hfs_free(struct hfs *swap);
int hfs_start(struct hfs *swap);
int hfs_lock(struct hfs *swap);
void hfs_stop(struct hfs *swap);
void hfs_quiesce(struct hfs *swap);
int64_t hfs_stage(struct hfs *swap, bool pages);
int hfs_zapped(struct hfs *swap);
int hfs_unstage(struct hfs *swap);
int hfs_take_over(struct hfs *swap);
int hfs_discard(struct hfs *swap, uint64_t first, uint64_t count, struct hfs_progress *progress);
int hfs_trim(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
int hfs_swap_out(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
int hfs_swap_in(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
int hfs_release(struct hfs *swap, int slow, int final, int *file_error);
int hfs_shrink(struct hfs *swap, uint64_t limit, struct hfs_progress *progress);
"""


def builder(top: Path = Path()) -> FFI:
    """Return the description of the extension for cffi; its files are named relative to `top`."""
    folder = top / "hfsched" / "swap" / "core"
    ffi = FFI()
    ffi.cdef(_CDEF)
    ffi.set_source(
        "hfsched.swap.core._core",
        '#include "compression.h"\n#include "core.h"\n#include "frames.h"\n',
        sources=[str(folder / path.name) for path in sorted(_HERE.glob("*.c"))],
        depends=[str(folder / path.name) for path in sorted(_HERE.glob("*.h"))],
        include_dirs=[str(folder)],
        libraries=["pthread", "dl"],
        extra_compile_args=["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
        optional=True,  # without a compiler the rest of hfsched works
    )
    return ffi


def main() -> None:
    """Build it into the source tree."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # a directory without a pyproject.toml
        made = builder(_TOP).compile(tmpdir=folder)
        shutil.copy2(made, _HERE)


if __name__ == "__main__":
    main()
