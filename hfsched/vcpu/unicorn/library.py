"""The shared library of Unicorn: a narrow ctypes binding and a probe of its layout.

The Python package `unicorn` is used as a place to find the library only: its wrappers cost 50 ms
to import and 10 us a call.

Registers of the running CPU are read and written in place, in the structure that Unicorn itself
works on, for that costs a tenth of its calls.  The layout of that structure is not part of its interface,
so `Library` finds it out: it gives a scratch CPU registers with known values, follows the pointers of
the handle with reads that cannot fault, runs `hvc #0x1234`, and looks for all of it.  What is not
found, or found twice in different places, is refused.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import struct
from functools import cache
from pathlib import Path
from typing import Self

from msgspec import Struct

from hfsched.errors import UserError

__all__ = [
    "CODE_SIZE",
    "ERR_EXCEPTION",
    "ERR_OK",
    "CpReg",
    "Ctl",
    "Layout",
    "Library",
    "Reg",
    "SafeReader",
    "load",
]

ERR_OK = 0
ERR_EXCEPTION = 21  # an exception without a hook: handled here

_ARCH_ARM64 = 2
_CPU_MAX = 3  # UC_CPU_ARM64_MAX: pointer authentication and large system extensions

CODE_SIZE = 32 << 20  # bytes for translated code, of which 1 GiB would be reserved otherwise

# How far behind a pointer the CPU's registers are looked for, in bytes.
_REACH = 1 << 17

_COUNT = 0x5EED_0000_0000  # instructions; a number that nothing else in the handle is

_DOC = "pip install 'hfsched[emulator]'"


class Reg:
    """Register ids of uc_reg_read and uc_reg_write (arm64.h)."""

    X29 = 1
    X30 = 2
    XZR = 7
    Q0 = 104
    X0 = 199
    PC = 260
    PSTATE = 265
    ELR_EL1 = 267
    SP_EL0 = 270
    SP_EL1 = 271
    ESR_EL1 = 277
    FAR_EL1 = 281
    VBAR_EL1 = 287
    CP_REG = 290
    FPCR = 291
    FPSR = 292


class Ctl:
    """Control words of uc_ctl: number, arguments << 26, write << 30."""

    EXITS_ENABLE = 4 | 1 << 26 | 1 << 30
    EXITS = 6 | 2 << 26 | 1 << 30
    CPU_MODEL = 7 | 1 << 26 | 1 << 30
    TB_FLUSH = 10 | 1 << 30
    TLB_FLUSH = 11 | 1 << 30
    TCG_BUFFER_SIZE = 13 | 1 << 26 | 1 << 30


class CpReg(ctypes.Structure):
    """uc_arm64_cp_reg: a system register by its encoding, and its value."""

    _fields_ = (
        ("crn", ctypes.c_uint32),
        ("crm", ctypes.c_uint32),
        ("op0", ctypes.c_uint32),
        ("op1", ctypes.c_uint32),
        ("op2", ctypes.c_uint32),
        ("val", ctypes.c_uint64),
    )


class Layout(Struct, frozen=True):
    """Byte offsets found by the probe.

    `cpu` is where the handle keeps the pointer to its CPU, `env` where that CPU's registers begin,
    and the rest are relative to those: x0..x30 and SP, PC, the pending exception (u32 syndrome,
    u32, u64 virtual address, u32 target EL).  `size` is what a snapshot copies, in bytes.
    `features` is where the CPU keeps ID_AA64PFR0_EL1, by which it translates code.  `count` is where
    the handle keeps how many instructions `emu_start` was told to run (u64).
    """

    cpu: int
    env: int
    x0: int
    pc: int
    exception: int
    size: int
    features: int
    count: int


class Library:
    """The functions used, each bound once.  `slow` functions release the interpreter lock."""

    def __init__(self, path: str) -> None:
        slow = ctypes.CDLL(path)
        fast = ctypes.PyDLL(path)  # for calls of under a microsecond: keeps the interpreter lock
        handle, word, number = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int
        self.emu_start = slow.uc_emu_start
        self.emu_start.argtypes = (handle, word, word, word, ctypes.c_size_t)
        self.reg_read = fast.uc_reg_read
        self.reg_read.argtypes = (handle, number, handle)
        self.reg_write = fast.uc_reg_write
        self.reg_write.argtypes = (handle, number, handle)
        self.open = slow.uc_open
        self.open.argtypes = (number, number, handle)
        self.close = slow.uc_close
        self.close.argtypes = (handle,)
        self.mem_map_ptr = slow.uc_mem_map_ptr
        self.mem_map_ptr.argtypes = (handle, word, word, ctypes.c_uint32, handle)
        self.vmem_read = fast.uc_vmem_read
        self.vmem_read.argtypes = (handle, word, number, handle, ctypes.c_size_t)
        self.ctl = fast.uc_ctl  # variadic: pass ctypes objects
        self.hook_add = fast.uc_hook_add  # variadic too
        self.context_size = fast.uc_context_size
        self.context_size.argtypes = (handle,)
        self.context_size.restype = ctypes.c_size_t
        self.context_alloc = fast.uc_context_alloc
        self.context_alloc.argtypes = (handle, handle)
        self.context_save = fast.uc_context_save
        self.context_save.argtypes = (handle, handle)
        self.context_free = fast.uc_context_free
        self.context_free.argtypes = (handle,)
        self.strerror = fast.uc_strerror
        self.strerror.restype = ctypes.c_char_p
        version = fast.uc_version
        major, minor = number(), number()
        combined = version(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}.{combined >> 8 & 0xFF}"
        self.layout = self._probe()

    def check(self, error: int, what: str) -> None:
        """Raise `UserError` unless `error` is 0."""
        if error:
            raise UserError(
                f"engine unicorn: {what} failed: {self.strerror(error).decode()} "
                f"(unicorn {self.version})"
            )

    def new_handle(self) -> int:
        """Return a CPU with little reserved address space, that stops for nothing but exceptions."""
        handle = ctypes.c_void_p()
        self.check(self.open(_ARCH_ARM64, 0, ctypes.byref(handle)), "uc_open")
        uc = ctypes.c_void_p(handle.value)
        control = ctypes.c_uint
        none = (ctypes.c_uint64 * 1)()
        for error in (
            self.ctl(uc, control(Ctl.CPU_MODEL), ctypes.c_int(_CPU_MAX)),
            self.ctl(uc, control(Ctl.TCG_BUFFER_SIZE), ctypes.c_uint32(CODE_SIZE)),
            # An empty list: nothing is translated past an `until`, which would change ESR and FAR.
            self.ctl(uc, control(Ctl.EXITS_ENABLE), ctypes.c_int(1)),
            self.ctl(uc, control(Ctl.EXITS), none, ctypes.c_size_t(0)),
        ):
            if error:
                self.close(handle)
                self.check(error, "uc_ctl")
        assert handle.value
        return handle.value

    def write_cp(self, uc: int, key: tuple[int, int, int, int, int], value: int) -> None:
        """Write the system register (op0, op1, CRn, CRm, op2)."""
        op0, op1, crn, crm, op2 = key
        register = CpReg(crn, crm, op0, op1, op2, value)
        error = self.reg_write(uc, Reg.CP_REG, ctypes.addressof(register))
        self.check(error, f"writing S{op0}_{op1}_C{crn}_C{crm}_{op2}")

    def read_cp(self, uc: int, key: tuple[int, int, int, int, int]) -> int:
        """Return the system register (op0, op1, CRn, CRm, op2), 0 where Unicorn has none."""
        op0, op1, crn, crm, op2 = key
        register = CpReg(crn, crm, op0, op1, op2, 0)
        error = self.reg_read(uc, Reg.CP_REG, ctypes.addressof(register))
        return 0 if error else int(register.val)

    def _probe(self) -> Layout:
        uc = self.new_handle()
        memory = ctypes.create_string_buffer(3 * 4096)
        try:
            page = -ctypes.addressof(memory) % 4096
            ctypes.memmove(
                ctypes.addressof(memory) + page, struct.pack("<2I", 0xD4024682, 0xD4028642), 8
            )
            address = ctypes.addressof(memory) + page
            self.check(self.mem_map_ptr(uc, 0x10000, 4096, 7, address), "uc_mem_map_ptr")
            self.write_cp(uc, (3, 6, 1, 1, 0), 0x531)  # SCR_EL3
            self.write_cp(uc, (3, 4, 1, 1, 0), 1 << 31)  # HCR_EL2
            xs = [0x6D61_7273_0000_5A00 + 0x0101 * i for i in range(31)]
            for i, x in enumerate(xs):
                value = ctypes.c_uint64(x)
                register = Reg.X0 + i if i < 29 else Reg.X29 + i - 29
                self.reg_write(uc, register, ctypes.addressof(value))
            layout = None
            # HVC #0x1234, then HVC #0x1432: two runs must agree on where all is.
            for pc, syndrome in ((0x10000, 0x5A001234), (0x10004, 0x5A001432)):
                error = self.emu_start(uc, pc, 0, 0, _COUNT + pc)
                if error != ERR_EXCEPTION:
                    raise self._unknown(f"a hypercall ended with {error}")
                found = self._search(uc, struct.pack("<31Q", *xs), pc + 4, syndrome, _COUNT + pc)
                if layout not in (None, found):
                    raise self._unknown("two probes disagree")
                layout = found
            assert layout is not None
            return layout
        finally:
            self.close(uc)

    def _unknown(self, why: str) -> UserError:
        return UserError(
            f"engine unicorn: unicorn {self.version} is laid out in an unknown way ({why}); "
            "pip install unicorn==2.1.4"
        )

    def _find_features(self, uc: int, cpu: bytes) -> int:
        # ID_AA64ISAR0, ISAR1, PFR0, PFR1, MMFR0, MMFR1, MMFR2: together, in this order.
        keys = [(6, 0), (6, 1), (4, 0), (4, 1), (7, 0), (7, 1), (7, 2)]
        values = [self.read_cp(uc, (3, 0, 0, *key)) for key in keys]
        at = cpu.find(struct.pack("<7Q", *values))
        if at < 0 or not all(values[:3]):
            raise self._unknown("no identification registers")
        return at + 2 * 8

    def _live(self, uc: int, read: SafeReader, xs: bytes) -> list[tuple[int, int, int]]:
        """Return (distance, offset in the handle, pointer) of what holds `xs` and follows x30."""
        found = []
        handle = read(uc, 4096)
        idle = self._idle_handle(read)
        for offset in range(0, min(len(handle), len(idle)) - 7, 8):
            (pointer,) = struct.unpack_from("<Q", handle, offset)
            if pointer < 4096 or pointer % 8 or idle[offset : offset + 8] == bytes(8):
                continue
            block = read(pointer, _REACH)
            at = block.find(xs)
            while at >= 0:
                found.append((at, offset, pointer))
                at = block.find(xs, at + 8)
        # Copies (of snapshots, of this program's own) stay when the register changes.
        last = ctypes.c_uint64.from_buffer_copy(xs, 30 * 8)
        for changed in (~last.value & (1 << 64) - 1, last.value):
            value = ctypes.c_uint64(changed)
            self.reg_write(uc, Reg.X30, ctypes.addressof(value))
            word = struct.pack("<Q", changed)
            found = [each for each in found if read(each[2] + each[0] + 240, 8) == word]
        return found

    def _idle_handle(self, read: SafeReader) -> bytes:
        """Return a handle whose CPU never ran: there are no registers of ours saved in it."""
        uc = self.new_handle()
        try:
            return read(uc, 4096)
        finally:
            self.close(uc)

    def _search(self, uc: int, xs: bytes, pc: int, syndrome: int, limit: int) -> Layout:
        context = ctypes.c_void_p()
        self.check(self.context_alloc(uc, ctypes.byref(context)), "uc_context_alloc")
        total = self.context_size(uc)
        try:
            self.check(self.context_save(uc, context), "uc_context_save")
            image = ctypes.string_at(context.value or 0, total)
        finally:
            self.context_free(context)
        # A snapshot is a header that begins with the size of what follows, and a copy.
        (size,) = struct.unpack_from("<Q", image)
        x0 = image.find(xs) - (total - size)
        if not (0 <= x0 < size <= total - 8):
            raise self._unknown("no registers in a snapshot")
        copy = image[total - size :]
        with SafeReader() as read:
            # Objects in front of the CPU are farther away than the CPU itself.
            env, cpu, pointer = min(self._live(uc, read, xs), default=(0, 0, 0))
            handle, wanted = read(uc, 4096), struct.pack("<Q", limit)
            count = handle.find(wanted)
            if count < 0 or count % 8 or handle.find(wanted, count + 1) >= 0:
                raise self._unknown("no instruction count")
            env -= x0
            if not pointer or env < 0:
                raise self._unknown("no registers")
            features = self._find_features(uc, read(pointer, _REACH))
            if read(pointer + env, size)[: x0 + 400] != copy[: x0 + 400]:
                raise self._unknown("the registers differ from a snapshot")
        # Behind x0..x30 and SP: PC (u64), PSTATE (u32), 1 for AArch64 (u32).
        where = x0 + 32 * 8
        if copy[where : where + 8] != struct.pack("<Q", pc) or copy[where + 12] != 1:
            raise self._unknown("no PC behind the registers")
        wanted = struct.pack("<I", syndrome)
        exception = copy.find(wanted)
        if exception < 0 or exception % 8 or copy.find(wanted, exception + 4) >= 0:
            raise self._unknown("no syndrome")
        if copy[exception + 16] != 2:
            raise self._unknown("no target exception level")
        return Layout(cpu, env, x0, where, exception, size, features, count)


class SafeReader:
    """Reads this process's memory without ever faulting: the kernel copies, and may refuse."""

    def __enter__(self) -> Self:
        self._fd = os.memfd_create("hfsched:probe", os.MFD_CLOEXEC)
        self._pwrite = ctypes.CDLL(None, use_errno=True).pwrite
        self._pwrite.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
        self._pwrite.restype = ctypes.c_ssize_t
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def __call__(self, address: int, size: int) -> bytes:
        """Return the readable bytes at `address`, up to `size`."""
        count = self._pwrite(self._fd, address, size, 0)
        return os.pread(self._fd, count, 0) if count > 0 else b""


@cache
def load() -> Library:
    """Return the library, loaded and probed at the first call."""
    spec = importlib.util.find_spec("unicorn")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder, "lib").glob("libunicorn.so*")):
            try:
                return Library(str(path))
            except (OSError, AttributeError) as error:
                raise UserError(f"engine unicorn: {path} cannot be used: {error}; {_DOC}") from None
    raise UserError(f"engine unicorn: the package 'unicorn' is not installed; {_DOC}")
