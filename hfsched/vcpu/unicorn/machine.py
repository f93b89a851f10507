"""One instance of Unicorn: an arm64 CPU seen from EL2, with its registers in place.

Call everything from the thread that has the turn, or while no CPU executes; only `stop` may come from
any thread.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.unicorn.exceptions import MASKED
from hfsched.vcpu.unicorn.handles import new_handle
from hfsched.vcpu.unicorn.library import ERR_EXCEPTION, ERR_OK, CpReg, Ctl, Library, Reg
from hfsched.vcpu.unicorn.stage2 import VTCR

__all__ = ["BlockHandler", "Machine", "Sys", "TimerHandler"]

Key: TypeAlias = tuple[int, int, int, int, int]
BlockHandler: TypeAlias = Callable[[int, int], None]


class TimerHandler(Protocol):
    """Called at an MRS (`read`) or MSR of the general register with this Unicorn id."""

    def __call__(self, register: int, access: CpReg, *, read: bool) -> bool:
        """Do it and return True, or return False to let Unicorn do it."""


class Sys:
    """System registers by (op0, op1, CRn, CRm, op2)."""

    SCTLR_EL1: Final = (3, 0, 1, 0, 0)
    SPSR_EL1: Final = (3, 0, 4, 0, 0)
    CNTKCTL_EL1: Final = (3, 0, 14, 1, 0)
    MMFR1_EL1: Final = (3, 0, 0, 7, 1)
    VMPIDR_EL2: Final = (3, 4, 0, 0, 5)
    HCR_EL2: Final = (3, 4, 1, 1, 0)
    MDCR_EL2: Final = (3, 4, 1, 1, 1)
    VTTBR_EL2: Final = (3, 4, 2, 1, 0)
    VTCR_EL2: Final = (3, 4, 2, 1, 2)
    HPFAR_EL2: Final = (3, 4, 6, 0, 4)
    CNTHCTL_EL2: Final = (3, 4, 14, 1, 0)
    SCR_EL3: Final = (3, 6, 1, 1, 0)


_Q0 = int(Reg.Q0)  # finding an enumeration's member takes as long as a call

# NS, RES1, HCE, RW, APK, API: pointer authentication needs the last two here and in HCR_EL2.
_SCR = 0x531 | 1 << 16 | 1 << 17
_VI = 1 << 7
# VM, FMO and IMO (a virtual interrupt is taken only with IMO), TWI, TID3, TACR, TSW, TPU, RW, TLOR, APK, API.
_HCR = (
    0b11001
    | (1 << 13 | 1 << 18 | 1 << 21 | 1 << 22 | 1 << 24)
    | (1 << 31 | 1 << 35 | 1 << 40 | 1 << 41)
)
_TTLB = 1 << 25
# TPMCR, TPM, TDA, TDOSA, TDRA: performance monitors and debug registers.
_MDCR = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11

# Half precision and SVE: Unicorn has unallocated encodings of both that abort the whole process.
_NO_FEATURES = 0xF << 16 | 0xF << 20 | 0xF << 32

_HOOK_INSN = 2
_HOOK_EDGE_GENERATED = 1 << 15
_INSTRUCTIONS = {True: 1, False: 2}  # UC_ARM64_INS_MRS, UC_ARM64_INS_MSR
# More places than this that name a timer get no hook each, but one for all (and slow) MRS and MSR.
_HOOKS_MAX = 256

# Behind everything a stage-2 table may point to, as are the tables themselves.
_WARM_UP = (1 << 44) - 4096


class _Block(ctypes.Structure):
    """uc_tb: a translated block by its address and size in bytes."""

    _fields_ = (
        ("pc", ctypes.c_uint64),
        ("instructions", ctypes.c_uint16),
        ("size", ctypes.c_uint16),
    )


class _Exception(ctypes.Structure):
    """The pending exception: the syndrome, the virtual address, the EL it is for."""

    _fields_ = (
        ("syndrome", ctypes.c_uint32),
        ("fsr", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("target", ctypes.c_uint32),
    )


_BlockHook = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.POINTER(_Block), ctypes.POINTER(_Block), ctypes.c_void_p
)
_SysHook = ctypes.CFUNCTYPE(
    ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(CpReg), ctypes.c_void_p
)


@cache
def _warm_up_page() -> tuple[mmap.mmap, int]:
    page = mmap.mmap(-1, 4096)
    # A branch to the next instruction, so that a block ends by itself, and HVC #0.
    page[:8] = struct.pack("<2I", 0x14000001, 0xD4000002)
    return page, ctypes.addressof(ctypes.c_char.from_buffer(page))


class Machine:
    """`x` is x0..x30 and the current SP, `pc` and `aarch64` have one element: all in place.

    `on_block(pc, size)` is called for each new translated block, `on_timer` for hooked accesses.
    """

    def __init__(
        self,
        library: Library,
        index: int,
        root: int,
        on_block: BlockHandler,
        on_timer: TimerHandler,
        *,
        several: bool,
    ) -> None:
        self._library = library
        self._reg_read, self._reg_write = library.reg_read, library.reg_write
        self._emu_start = library.emu_start
        self._box = ctypes.c_uint64()
        self._box_address = ctypes.addressof(self._box)
        self._vector = ctypes.create_string_buffer(16)
        self._vector_address = ctypes.addressof(self._vector)
        self._systems: dict[Key, tuple[CpReg, int]] = {}
        self._keep: list[Any] = []
        self.irq = False  # the virtual interrupt line
        self.uc = new_handle(library)
        layout = library.layout
        try:
            # What this CPU does to its TLB, the other CPUs of the VM must do too.
            self._hcr = _HCR | (_TTLB if several else 0)
            self._index, self._root = index, root
            cpu = ctypes.c_uint64.from_address(self.uc + layout.cpu).value
            self._registers = cpu + layout.env
            self._count = ctypes.c_uint64.from_address(self.uc + layout.count)
            features = ctypes.c_uint64.from_address(cpu + layout.features)
            features.value = features.value & ~_NO_FEATURES
            self.x = (ctypes.c_uint64 * 32).from_address(self._registers + layout.x0)
            self.pc = (ctypes.c_uint64 * 1).from_address(self._registers + layout.pc)
            self.aarch64 = (ctypes.c_uint32 * 1).from_address(self._registers + layout.pc + 12)
            self.exception = _Exception.from_address(self._registers + layout.exception)
            self._warm_up()
            self._pristine = b""
            self._initialize()
            self._pristine = self.image()
            self._hooks: set[tuple[int, bool]] = set()
            self._all_hooked = False
            self._code = ctypes.create_string_buffer(1 << 12)
            self._add_hooks(on_block, on_timer)
        except BaseException:
            self.close()
            raise

    def _warm_up(self) -> None:
        """Run one block that no guest sees: every later one passes the hook for new blocks."""
        self.map(_WARM_UP, 4096, _warm_up_page()[1])
        self.write_system(Sys.SCR_EL3, _SCR)
        error = self._library.emu_start(self.uc, _WARM_UP, 0, 0, 1000)
        if error != ERR_EXCEPTION or self.pc[0] != _WARM_UP + 8:
            raise InternalError(f"engine unicorn: the first instruction ended with {error}")

    def close(self) -> None:
        """Free the instance; the views must not be used afterwards."""
        if self.uc:
            uc, self.uc = self.uc, 0
            self._library.close(uc)
        self._keep = []

    def _initialize(self) -> None:
        for i in range(32):
            self.x[i] = 0
        self.pc[0] = 0
        self.write_system(Sys.VMPIDR_EL2, self._index)  # Hafnium leaves bit 31 clear
        # Hafnium zeroes it with all others; the CPU has its RES1 bits set.
        self.write_system(Sys.SCTLR_EL1, 0)
        self.write_system(Sys.MDCR_EL2, _MDCR)
        self.write_system(Sys.CNTHCTL_EL2, 0)
        self.write_system(Sys.VTCR_EL2, VTCR)
        self.write_system(Sys.VTTBR_EL2, self._root)
        self.write(Reg.PSTATE, MASKED)
        self.set_irq(False)

    # Registers

    def read(self, register: int) -> int:
        """Read one register by its Unicorn id (64 bits; 32 bits are zero-extended)."""
        self._box.value = 0
        self._reg_read(self.uc, register, self._box_address)
        return self._box.value

    def write(self, register: int, value: int) -> None:
        """Write one register by its Unicorn id."""
        self._box.value = value
        self._reg_write(self.uc, register, self._box_address)

    def read_vector(self, index: int) -> bytes:
        """Read Q0..Q31, 16 bytes."""
        self._reg_read(self.uc, _Q0 + index, self._vector_address)
        return self._vector.raw

    def write_vector(self, index: int, value: bytes) -> None:
        """Write Q0..Q31, 16 bytes."""
        buffer = ctypes.create_string_buffer(value, 16)
        self._reg_write(self.uc, Reg.Q0 + index, ctypes.addressof(buffer))

    def read_system(self, key: Key) -> int:
        """Read a system register by its encoding, 0 where Unicorn has none."""
        register, address = self._system(key)
        return register.val if self._reg_read(self.uc, Reg.CP_REG, address) == ERR_OK else 0

    def write_system(self, key: Key, value: int) -> None:
        """Write a system register by its encoding; makes a changed PSTATE take effect."""
        register, address = self._system(key)
        register.val = value
        error = self._reg_write(self.uc, Reg.CP_REG, address)
        if error:
            self._library.check(error, f"writing the system register {key}")

    def _system(self, key: Key) -> tuple[CpReg, int]:
        """Return the argument for a system register, and its address: made once a register."""
        try:
            return self._systems[key]
        except KeyError:
            op0, op1, crn, crm, op2 = key
            register = CpReg(crn, crm, op0, op1, op2, 0)
            self._systems[key] = found = register, ctypes.addressof(register)
            return found

    def set_irq(self, level: bool) -> None:  # noqa: FBT001
        """Set the virtual interrupt line; PSTATE written before takes effect."""
        self.irq = level
        self.write_system(Sys.HCR_EL2, self._hcr | (_VI if level else 0))

    def apply_pstate(self) -> None:
        """Make PSTATE written before take effect."""
        self.set_irq(self.irq)

    def image(self) -> bytes:
        """Return every register in Unicorn's own layout."""
        return ctypes.string_at(self._registers, self._library.layout.size)

    def load(self, image: bytes | None, *, irq: bool) -> None:
        """Restore what `image` returned, or (None) the registers after power-on."""
        image = self._pristine if image is None else image
        if len(image) != self._library.layout.size:
            raise UserError(f"engine unicorn: {len(image)} bytes are no register image")
        ctypes.memmove(self._registers, image, len(image))
        # The line is more than a register: from a known state to the wanted one.
        self.set_irq(not irq)
        self.set_irq(irq)
        self.flush_tlb()

    # Memory

    def map(self, physical: int, size: int, host: int) -> None:
        """Map `size` bytes of host memory at address `host` at a physical address."""
        library = self._library
        library.check(library.mem_map_ptr(self.uc, physical, size, 7, host), "uc_mem_map_ptr")

    def flush_tlb(self) -> None:
        """Discard every translation of addresses."""
        self._library.ctl(ctypes.c_void_p(self.uc), ctypes.c_uint(Ctl.TLB_FLUSH))

    def flush_code(self) -> None:
        """Discard every translated instruction."""
        self._library.ctl(ctypes.c_void_p(self.uc), ctypes.c_uint(Ctl.TB_FLUSH))

    # Running

    def run(self, count: int) -> int:
        """Run up to `count` instructions from the PC; ERR_EXCEPTION, or ERR_OK at the end."""
        error: int = self._emu_start(self.uc, self.pc[0], 0, 0, count)
        return error

    def stop(self) -> None:
        """Make the running `run` return before its next instruction; lost when none is running.

        Not with uc_emu_stop: Unicorn looks for that after each load and store too, in the middle of
        the instruction, and then begins it again: `ldr x1, [x1]` would load twice
        (qemu/tcg/tcg-op.c, check_exit_request).  The count is compared between instructions alone.
        """
        self._count.value = 0

    def describe(self, error: int) -> str:
        """Return Unicorn's words for an error of `run`."""
        return str(self._library.strerror(error).decode())

    # Hooks

    def _add_hooks(self, on_block: BlockHandler, on_timer: TimerHandler) -> None:
        def block(_uc: int, current: Any, _previous: Any, _data: int) -> None:
            on_block(current[0].pc, current[0].size)

        def mrs(_uc: int, register: int, access: Any, _data: int) -> int:
            return on_timer(register, access[0], read=True)

        def msr(_uc: int, register: int, access: Any, _data: int) -> int:
            return on_timer(register, access[0], read=False)

        self._keep = [_BlockHook(block), _SysHook(msr), _SysHook(mrs)]
        self._hook(_HOOK_EDGE_GENERATED, self._keep[0], 1, 0, 0)

    def _hook(self, kind: int, callback: Any, begin: int, end: int, extra: int) -> None:
        handle = ctypes.c_size_t()
        error = self._library.hook_add(
            ctypes.c_void_p(self.uc),
            ctypes.byref(handle),
            ctypes.c_int(kind),
            callback,
            None,
            ctypes.c_uint64(begin),
            ctypes.c_uint64(end),
            ctypes.c_int(extra),
        )
        self._library.check(error, "uc_hook_add")

    def code(self, address: int, size: int) -> bytes:
        """Return up to 4 KiB of instructions at a virtual address, empty if they cannot be read."""
        size = min(size, 1 << 12)
        error = self._library.vmem_read(self.uc, address, 4, ctypes.addressof(self._code), size)
        return self._code.raw[:size] if error == ERR_OK else b""

    def hook_timer(self, address: int, *, read: bool) -> bool:
        """Call `on_timer` for the MRS (`read`) or MSR at `address`; return whether that is new.

        It takes effect when the code is translated again.
        """
        if (address, read) in self._hooks or self._all_hooked:
            return False
        if len(self._hooks) >= _HOOKS_MAX:
            self._all_hooked = True
            for each, instruction in _INSTRUCTIONS.items():
                self._hook(_HOOK_INSN, self._keep[1 + each], 1, 0, instruction)
            return True
        self._hooks.add((address, read))
        self._hook(_HOOK_INSN, self._keep[1 + read], address, address, _INSTRUCTIONS[read])
        return True
