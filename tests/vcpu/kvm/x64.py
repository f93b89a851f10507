"""The few x86-64 instructions that the tests need, as bytes."""

from __future__ import annotations

import struct

LOW = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
HIGH = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
CODES = {name: code for code, name in enumerate(LOW + HIGH)}
ARGUMENTS = ("rax", "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10")
HVC, SMC, TIMER, NOTHING = 0x48, 0x53, 0x54, 0x80  # ports

HLT, CLI, STI, UD2, NOP, IRETQ = b"\xf4", b"\xfa", b"\xfb", b"\x0f\x0b", b"\x90", b"\x48\xcf"
PUSHFQ, POPFQ, WRMSR, RDMSR = b"\x9c", b"\x9d", b"\x0f\x30", b"\x0f\x32"
MOV_TO_CR8, MOV_FROM_CR8 = b"\x44\x0f\x22\xc0", b"\x44\x0f\x20\xc0"  # RAX
MOV_TO_DR0, MOV_TO_DR7, CPUID = b"\x0f\x23\xc0", b"\x0f\x23\xf8", b"\x0f\xa2"  # RAX
POPCNT = b"\xf3\x48\x0f\xb8\xc3"  # popcnt %rbx, %rax
REP_LODSQ, REP_STOSQ, REP_MOVSQ = b"\xf3\x48\xad", b"\xf3\x48\xab", b"\xf3\x48\xa5"
SPIN = b"\xeb\xfe"


def mov(register: str, value: int) -> bytes:
    """movabs $value, %register"""
    code = CODES[register]
    return bytes((0x48 | code >> 3, 0xB8 | code & 7)) + struct.pack("<Q", value & (1 << 64) - 1)


def copy(target: str, source: str) -> bytes:
    """mov %source, %target"""
    to, of = CODES[target], CODES[source]
    return bytes((0x48 | of >> 3 << 2 | to >> 3, 0x89, 0xC0 | (of & 7) << 3 | to & 7))


def _operands(opcode: int, register: str, base: str, size: int) -> bytes:
    prefix = {1: b"", 2: b"\x66", 4: b"", 8: b"\x48"}[size]
    return prefix + bytes((opcode - (size == 1), CODES[register] << 3 | CODES[base]))


def load(target: str, base: str, size: int = 8) -> bytes:
    """mov (%base), %target, `size` bytes; registers below 8, no stack pointers"""
    return _operands(0x8B, target, base, size)


def store(base: str, source: str, size: int = 8) -> bytes:
    """mov %source, (%base), likewise"""
    return _operands(0x89, source, base, size)


def compare(base: str, register: str) -> bytes:
    """cmp %register, (%base), likewise"""
    return _operands(0x39, register, base, 8)


def lock_add(base: str, source: str) -> bytes:
    """lock add %source, (%base), likewise"""
    return b"\xf0" + _operands(0x01, source, base, 8)


def add(target: str, source: str) -> bytes:
    """add %source, %target; registers below 8"""
    return bytes((0x48, 0x01, 0xC0 | CODES[source] << 3 | CODES[target]))


def inc(register: str) -> bytes:
    """inc %register; below 8"""
    return bytes((0x48, 0xFF, 0xC0 | CODES[register]))


def dec(register: str) -> bytes:
    """dec %register; below 8"""
    return bytes((0x48, 0xFF, 0xC8 | CODES[register]))


def out(port: int) -> bytes:
    """out %eax, $port"""
    return bytes((0xE7, port))


def jump(displacement: int) -> bytes:
    """jmp to `displacement` bytes from its own start"""
    return b"\xe9" + struct.pack("<i", displacement - 5)


def jump_if_not_zero(displacement: int) -> bytes:
    """jne, likewise"""
    return b"\x0f\x85" + struct.pack("<i", displacement - 6)


def jump_to(register: str) -> bytes:
    """jmp *%register; below 8"""
    return bytes((0xFF, 0xE0 | CODES[register]))


def forever(body: bytes) -> bytes:
    """`body`, again and again."""
    return body + jump(-len(body))


def until_zero(body: bytes) -> bytes:
    """`body` until it ends with ZF set."""
    return body + jump_if_not_zero(-len(body))


def lidt(base: str) -> bytes:
    """lidt (%base)"""
    return bytes((0x0F, 0x01, 3 << 3 | CODES[base]))


def lgdt(base: str) -> bytes:
    """lgdt (%base)"""
    return bytes((0x0F, 0x01, 2 << 3 | CODES[base]))


def push(register: str) -> bytes:
    """push %register; below 8"""
    return bytes((0x50 + CODES[register],))


def pop(register: str) -> bytes:
    """pop %register"""
    code = CODES[register]
    return (b"\x41" if code > 7 else b"") + bytes((0x58 | code & 7,))


def mov_from_cr2(register: str) -> bytes:
    """mov %cr2, %register; below 8"""
    return bytes((0x0F, 0x20, 0xC0 | 2 << 3 | CODES[register]))
