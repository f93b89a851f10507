"""Builds the extension `_core` (cffi, API mode): the compiler checks all against the kernel's headers.

pip does it by ``setup.py``; ``python -m hfsched.vcpu.kvm.build_core`` does it in the source tree.
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
enum { HF_HVC, HF_SMC, HF_WFI, HF_TIMER, HF_KICKED, HF_POKED, HF_MMIO, HF_FETCH, HF_ODD, HF_FAILED,
       ... };

struct hf_exit {
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

struct hf_cpu {
    struct hf_exit exit;
    struct { uint64_t count; uint64_t values[8]; } reply;
    uint64_t tables;
    ...;
};

int hf_prepare(void);
int hf_open(struct hf_cpu *cpu, int vm_fd, int index, uint64_t run_size);
void hf_close(struct hf_cpu *cpu);
void hf_free(struct hf_cpu *cpu);
int hf_enter(struct hf_cpu *cpu);
void hf_kick(struct hf_cpu *cpu);
void hf_poke(struct hf_cpu *cpu);
void hf_wait_out(struct hf_cpu *cpu);
int hf_set_line(struct hf_cpu *cpu, int level);
int hf_reset(struct hf_cpu *cpu, uint64_t pc, uint64_t argument);
int hf_complete_mmio(struct hf_cpu *cpu, uint64_t value);
int hf_inject_abort(struct hf_cpu *cpu, int fetch);
int hf_call_off(struct hf_cpu *cpu);
int hf_timer_remaining(struct hf_cpu *cpu, int64_t *left);
int hf_mask_timer(struct hf_cpu *cpu);
int hf_set_memory(int vm_fd, uint32_t slot, uint32_t flags, uint64_t ipa, uint64_t size,
                  uint64_t host);
int hf_stats(struct hf_cpu *cpu);
int hf_read_clock(struct hf_cpu *cpu, uint64_t *count);
void hf_freeze(struct hf_cpu *cpu, uint64_t count);
int hf_thaw(struct hf_cpu *cpu, const struct hf_cpu *first);
int hf_saved_size(struct hf_cpu *cpu);
int hf_save(struct hf_cpu *cpu, uint8_t *out, int size);
void hf_forget_time(uint8_t *out);
int hf_restore(struct hf_cpu *cpu, const uint8_t *in, int size);
int hf_program_counter(struct hf_cpu *cpu, uint64_t *pc);
int hf_bare_loop(struct hf_cpu *cpu, int exits);
int hf_prepare_vm(int kvm_fd, int vm_fd);
int hf_features(struct hf_cpu *cpu, int kvm_fd);
int hf_ioctl(int fd, unsigned long request, unsigned long argument);

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


def builder(top: Path = Path()) -> FFI:
    """Return the description of the extension, for cffi, with files named from `top`."""
    room = top / "hfsched" / "vcpu" / "kvm"
    ffi = FFI()
    ffi.cdef(_CDEF)
    ffi.set_source(
        "hfsched.vcpu.kvm._core",
        '#include "core.h"\n',
        sources=[str(room / "core.c")],
        depends=[str(room / path.name) for path in sorted(_HERE.glob("*.[ch]"))],
        include_dirs=[str(room)],
        extra_compile_args=["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
        optional=True,  # without a compiler all else works
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
