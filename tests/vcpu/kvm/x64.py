"""The few x86-64 instructions that the tests need, as bytes."""

from __future__ import annotations

import struct

__all__ = ["CLI", "HLT", "STI", "UD2", "jump", "load", "mov", "out", "store"]

CODES = {"rax": 0, "rcx": 1, "rdx": 2, "rbx": 3, "rsp": 4, "rbp": 5, "rsi": 6, "rdi": 7}
HLT, CLI, STI, UD2 = b"\xf4", b"\xfa", b"\xfb", b"\x0f\x0b"
IRETQ = b"\x48\xcf"
NOP = b"\x90"


def mov(register: str, value: int) -> bytes:
    """movabs $value, %register"""
    return bytes((0x48, 0xB8 + CODES[register])) + struct.pack("<Q", value & (1 << 64) - 1)


def out(port: int) -> bytes:
    """out %eax, $port"""
    return bytes((0xE7, port))


def in_(port: int) -> bytes:
    """in $port, %eax"""
    return bytes((0xE5, port))


def load(target: str, base: str) -> bytes:
    """mov (%base), %target, 64 bits"""
    return bytes((0x48, 0x8B, CODES[target] << 3 | CODES[base]))


def store(base: str, source: str) -> bytes:
    """mov %source, (%base), 64 bits"""
    return bytes((0x48, 0x89, CODES[source] << 3 | CODES[base]))


def store32(base: str, source: str) -> bytes:
    """mov %source, (%base), 32 bits"""
    return bytes((0x89, CODES[source] << 3 | CODES[base]))


def load32(target: str, base: str) -> bytes:
    """mov (%base), %target, 32 bits"""
    return bytes((0x8B, CODES[target] << 3 | CODES[base]))


def jump(displacement: int) -> bytes:
    """jmp to `displacement` bytes from its own start."""
    return bytes((0xEB, (displacement - 2) & 0xFF))


def lidt(base: str) -> bytes:
    """lidt (%base)"""
    return bytes((0x0F, 0x01, 3 << 3 | CODES[base]))


def lgdt(base: str) -> bytes:
    """lgdt (%base)"""
    return bytes((0x0F, 0x01, 2 << 3 | CODES[base]))


def push(register: str) -> bytes:
    """push %register"""
    return bytes((0x50 + CODES[register],))


def pop(register: str) -> bytes:
    """pop %register"""
    return bytes((0x58 + CODES[register],))


def mov_from_cr2(register: str) -> bytes:
    """mov %cr2, %register"""
    return bytes((0x0F, 0x20, 0xC0 | 2 << 3 | CODES[register]))
