"""Builds the extension `_core` (cffi, API mode): the compiler checks it against the kernel's headers.

pip does it by ``setup.py``; ``python -m hfsched.vcpu.kvm.build_core`` does it in the source tree.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from cffi import FFI

__all__ = ["CFLAGS", "builder", "sources"]

# tests/vcpu/kvm/test_kvm_build.py adds -Werror: a newer compiler's new warning must not lose the engine.
CFLAGS = ("-std=gnu17", "-Wall", "-Wextra")

_HERE = Path(__file__).resolve().parent
_TOP = _HERE.parents[2]

_CDEF = """
#define HFS_ARGUMENTS ...
#define HFS_REPLY_MAX ...
#define HFS_REGISTER_SLOT ...
#define HFS_REASON_ERRNO ...
enum hfs_exit_kind { HFS_HVC, HFS_SMC, HFS_WFI, HFS_TIMER, HFS_KICKED, HFS_FORCED, HFS_MMIO, HFS_FETCH,
                     HFS_UNDECODED, HFS_FAILED, ... };
enum hfs_cancelled { HFS_ACCESS_REPEATS, HFS_WRITE_REMAINS, ... };
enum hfs_timer_state { HFS_TIMER_OFF, HFS_TIMER_ARMED, ... };

struct hfs_exit {
    uint64_t args[8];
    uint64_t address;
    uint64_t virtual_address;
    uint64_t value;
    uint32_t size;
    uint32_t write;
    uint32_t reason;
    uint64_t detail;
    ...;
};

struct hfs_exception {
    uint64_t address;
    uint32_t vector;
    uint32_t error;
};

struct hfs_register {
    const char *name;
    uint32_t size;
};

struct hfs_cpu {
    struct hfs_exit exit;
    struct { uint64_t count; uint64_t values[18]; } reply;
    uint64_t tables;
    ...;
};

int hfs_prepare(void);
int hfs_prepare_vm(int vm_fd);
int hfs_set_memory(int vm_fd, uint32_t slot, uint32_t flags, uint64_t ipa, uint64_t size,
                   uint64_t host);
int hfs_ioctl(int fd, unsigned long request, unsigned long argument);
int hfs_open(struct hfs_cpu *cpu, int kvm_fd, int vm_fd, int index, uint64_t run_size);
void hfs_close(struct hfs_cpu *cpu);
void hfs_free(struct hfs_cpu *cpu);
int hfs_stats(struct hfs_cpu *cpu);
int hfs_enter(struct hfs_cpu *cpu);
int hfs_arguments(struct hfs_cpu *cpu, uint32_t count, uint64_t *out);
void hfs_kick(struct hfs_cpu *cpu);
void hfs_force_exit(struct hfs_cpu *cpu);
void hfs_wait_outside(struct hfs_cpu *cpu);
int hfs_set_line(struct hfs_cpu *cpu, int level);
int hfs_bare_loop(struct hfs_cpu *cpu, int exits);
int hfs_complete_mmio(struct hfs_cpu *cpu, uint64_t value);
int hfs_cancel_access(struct hfs_cpu *cpu);
int hfs_inject_abort(struct hfs_cpu *cpu, int fetch);
int hfs_reset(struct hfs_cpu *cpu, uint64_t pc, uint64_t argument);
int hfs_program_counter(struct hfs_cpu *cpu, uint64_t *pc);
int hfs_translate(struct hfs_cpu *cpu, uint64_t address, uint64_t *physical);
int hfs_last_exception(struct hfs_cpu *cpu, struct hfs_exception *found);
const struct hfs_register *hfs_register(uint32_t index);
int hfs_get_registers(struct hfs_cpu *cpu, uint8_t *values, uint8_t *known);
int hfs_set_registers(struct hfs_cpu *cpu, const uint8_t *values, const uint8_t *wanted);
int hfs_saved_size(void);
int hfs_save(struct hfs_cpu *cpu, uint8_t *out, int size);
int hfs_restore(struct hfs_cpu *cpu, const uint8_t *in, int size);
void hfs_clear_counters(uint8_t *saved);
int hfs_timer_remaining(struct hfs_cpu *cpu, int64_t *left);
int hfs_mask_timer(struct hfs_cpu *cpu);
int hfs_read_clock(struct hfs_cpu *cpu, uint64_t *count);
uint64_t hfs_ticks(uint64_t ns);
void hfs_freeze(struct hfs_cpu *cpu, uint64_t count);
int hfs_thaw(struct hfs_cpu *cpu, const struct hfs_cpu *first);

#define KVM_GET_API_VERSION ...
#define KVM_CREATE_VM ...
#define KVM_CHECK_EXTENSION ...
#define KVM_GET_VCPU_MMAP_SIZE ...
#define KVM_GET_STATS_FD ...
#define KVM_CAP_USER_MEMORY ...
#define KVM_CAP_IMMEDIATE_EXIT ...
#define KVM_CAP_READONLY_MEM ...
#define KVM_CAP_SYNC_REGS ...
#define KVM_CAP_NR_MEMSLOTS ...
#define KVM_CAP_NR_VCPUS ...
#define KVM_MEM_READONLY ...
"""


def sources(machine: str) -> tuple[str, ...]:
    """Return the names of the C files for hosts of an architecture: "aarch64", else x86-64's."""
    prefix = "arm64" if machine in ("aarch64", "arm64") else "x86_64"
    return "run.c", "vcpu.c", *(path.name for path in sorted(_HERE.glob(f"{prefix}_*.c")))


def builder(top: Path = Path(), machine: str = "") -> FFI:
    """Return the description of the extension, for cffi, with files named from `top`.

    `machine` is the architecture of the host that it is for, this one's if empty.
    """
    folder = top / "hfsched" / "vcpu" / "kvm"
    ffi = FFI()
    ffi.cdef(_CDEF)
    ffi.set_source(
        "hfsched.vcpu.kvm._core",
        '#include "core.h"\n',
        sources=[str(folder / name) for name in sources(machine or platform.machine())],
        depends=[str(folder / path.name) for path in sorted(_HERE.glob("*.[ch]"))],
        include_dirs=[str(folder)],
        extra_compile_args=[*CFLAGS, "-O2", "-fvisibility=hidden"],
        optional=True,  # without a compiler the other engines work
    )
    return ffi


def main() -> None:
    """Build it into the source tree."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where no pyproject.toml is
        made = builder(_TOP).compile(tmpdir=folder)
        shutil.copy2(made, _HERE)


if __name__ == "__main__":
    main()
