"""A second, small hypervisor, written from the facts alone: what each step must come to.

It shares no code and no table with `hfsched.hypervisor` or `hfsched.abi`; results are spelled as
the text of the interface's dataclasses.  Time stands still while a guest runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Access", "Arm", "Call", "Model", "ModelCpu", "ModelVm", "Todo"]

X = (1 << 64) - 1
W = (1 << 32) - 1
H = 0xFFFF  # ids of VMs and vCPUs
PAGE = 4096
OFF, READY, MAIL, IRQ, DEAD = "off", "ready", "blocked on mailbox", "blocked on irq", "aborted"
EMPTY, RECEIVED, READ = "empty", "received", "read"
NOT_SUPPORTED, INVALID, BUSY, INTERRUPTED, DENIED, RETRY = -1, -2, -4, -5, -6, -7

Regs: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """HVC or SMC."""

    regs: Regs
    smc: bool


@dataclass(frozen=True)
class Access:
    """Load or store 8 bytes."""

    address: int
    value: int | None


@dataclass(frozen=True)
class Arm:
    """Set the timer."""

    delay: int | None


Todo: TypeAlias = Call | Access | Arm


@dataclass
class ModelCpu:
    index: int
    state: str = READY
    enabled: set[int] = field(default_factory=set)
    pending: set[int] = field(default_factory=set)
    serving: bool = False
    start: tuple[int, int] | None = None
    owed: Regs | None = None  # what the guest sees when it goes on
    timer: int | None = None
    timer_masked: bool = False
    kicked: bool = False
    lost: int | None = None  # it was started at this address, where no code is
    todo: list[Todo] = field(default_factory=list)
    seen: list[Regs | str] = field(default_factory=list)

    @property
    def up(self) -> bool:
        return bool(self.enabled & self.pending)


@dataclass
class Mailbox:
    mapped: tuple[int, int] | None = None  # {TX, RX} as IPAs
    state: str = EMPTY
    sender: int = 0
    size: int = 0
    data: bytes = b""
    waiters: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)

    @property
    def writable(self) -> bool:
        return self.mapped is not None and self.state == EMPTY


@dataclass
class ModelVm:
    id: int
    base: int
    entry: int
    ram: bytearray
    cpus: list[ModelCpu]
    mailbox: Mailbox = field(default_factory=Mailbox)
    dead: str | None = None
    log: bytes = b""


class Switch(Exception):
    """The call ends the RUN."""

    def __init__(self, result: str, regs: Regs, state: str = READY) -> None:
        super().__init__()
        self.result, self.regs, self.state = result, regs, state


def ffa(function: int, *words: int) -> Regs:
    return (function, *words, *([0] * (7 - len(words))))


def fail(code: int) -> Regs:
    return ffa(0x8400_0060, 0, code & X)


GOOD = ffa(0x8400_0061)


class Model:
    """The hypervisor, the primary's mailbox, the VMs, and the clock."""

    def __init__(self, vms: list[ModelVm], now: int) -> None:
        self.vms = {vm.id: vm for vm in vms}
        self.primary = Mailbox(mapped=(0, 0))
        self.now = now
        self.lines: list[bytes] = []

    def mailbox(self, number: int) -> Mailbox | None:
        if number == 1:
            return self.primary
        return self.vms[number].mailbox if number in self.vms else None

    # The primary.

    def run(self, number: int, index: int) -> str:
        vm, cpu = self.vms[number], self.vms[number].cpus[index]
        if vm.dead is not None:
            cpu.state = DEAD
            return "Invalid()"
        if cpu.state == OFF:
            return "Invalid()"
        if cpu.state == MAIL and vm.mailbox.state == RECEIVED:
            vm.mailbox.state = READ
            cpu.owed = ffa(0x8400_006E, vm.mailbox.sender << 16 | vm.id, 0, vm.mailbox.size)
        elif cpu.state in (MAIL, IRQ) and not cpu.up and self.left(cpu) != 0:
            return self.blocked(cpu, cpu.state)
        return self.enter(vm, cpu)

    def direct_request(self, number: int, index: int, words: Regs) -> str:
        vm, cpu = self.vms[number], self.vms[number].cpus[index]
        if cpu.serving:
            return "Busy()"
        if vm.dead is not None:
            cpu.state = DEAD
            return f"Aborted(reason={vm.dead!r})"
        if cpu.state != MAIL:
            return "Busy()"
        cpu.serving = True
        cpu.owed = ffa(0x8400_006F, 1 << 16 | number, 0, *words)
        return self.enter(vm, cpu)

    def send(self, to: int, data: bytes, *, notify: bool) -> str:
        if to not in self.vms:
            return "invalid"
        vm = self.vms[to]
        if not vm.mailbox.writable:
            if notify:
                self.refuse(vm.mailbox, 1)
            return "busy"
        self.deliver(vm, 1, data)
        return "sent"

    def waiter(self, number: int) -> int | None:
        mailbox = self.mailbox(number)
        if mailbox is None or not mailbox.writable or not mailbox.waiters:
            return None
        first = mailbox.waiters.pop(0)
        theirs = self.mailbox(first)
        assert theirs is not None
        if number not in theirs.ready:
            theirs.ready.append(number)
        return first

    def inject(self, number: int, index: int, intid: int) -> str:
        if number not in self.vms or not 0 <= index < 2 or not 0 <= intid < 64:
            return "invalid"
        cpu = self.vms[number].cpus[index]
        was_up = cpu.up
        cpu.pending.add(intid)
        if cpu.state == OFF or intid not in cpu.enabled:
            return "disabled"
        return "pending" if was_up else "wake"

    # A vCPU.

    def left(self, cpu: ModelCpu) -> int | None:
        if cpu.timer is None or cpu.timer_masked:
            return None
        return max(0, cpu.timer - self.now)

    def blocked(self, cpu: ModelCpu, state: str) -> str:
        name = "WaitForMessage" if state == MAIL else "WaitForInterrupt"
        return f"{name}(timer={self.left(cpu)})"

    def enter(self, vm: ModelVm, cpu: ModelCpu) -> str:
        cpu.state = READY
        if cpu.start is not None:
            entry, _ = cpu.start
            cpu.start = cpu.owed = cpu.timer = None
            cpu.timer_masked = False
            cpu.lost = None if entry == vm.entry else entry
        elif self.left(cpu) == 0:
            cpu.pending.add(3)
            cpu.timer_masked = True
        if cpu.kicked:
            cpu.kicked = False
            return "Preempted()"
        if cpu.lost is not None:
            vm.dead = f"no code at {cpu.lost:#x}"
            cpu.state = DEAD
            return f"Aborted(reason={vm.dead!r})"
        if cpu.owed is not None:
            cpu.seen.append(cpu.owed)
            cpu.owed = None
        while cpu.todo:
            what = cpu.todo.pop(0)
            if isinstance(what, Arm):
                cpu.timer = None if what.delay is None else self.now + what.delay
                cpu.timer_masked = False
                if what.delay == 0:
                    cpu.owed = ()
                    return "Preempted()"
                cpu.seen.append(())
            elif isinstance(what, Access):
                cpu.seen.append(self.access(vm, what))
            else:
                try:
                    cpu.seen.append(self.answer(vm, cpu, what))
                except Switch as switch:
                    cpu.owed, cpu.state = switch.regs, switch.state
                    return switch.result
        return "Preempted()"

    def access(self, vm: ModelVm, what: Access) -> Regs | str:
        offset = what.address - vm.base
        inside = 0 <= offset < len(vm.ram)
        rx = vm.mailbox.mapped is not None and vm.mailbox.mapped[1] <= what.address < (
            vm.mailbox.mapped[1] + PAGE
        )
        if not inside or (rx and what.value is not None):
            return f"abort at {what.address:#x}"
        if what.value is None:
            return (int.from_bytes(vm.ram[offset : offset + 8], "little"),)
        vm.ram[offset : offset + 8] = what.value.to_bytes(8, "little")
        return ()

    # Messages.

    def refuse(self, mailbox: Mailbox, sender: int) -> None:
        if sender not in mailbox.waiters:
            mailbox.waiters.append(sender)

    def deliver(self, vm: ModelVm, sender: int, data: bytes) -> None:
        mailbox = vm.mailbox
        assert mailbox.mapped is not None
        offset = mailbox.mapped[1] - vm.base
        vm.ram[offset : offset + len(data)] = data
        mailbox.state, mailbox.sender, mailbox.size = RECEIVED, sender, len(data)

    def writable(self, vm: ModelVm) -> Regs:
        if vm.mailbox.waiters:
            raise Switch("NotifyWaiters()", GOOD)
        return GOOD

    # Hypercalls.

    def answer(self, vm: ModelVm, cpu: ModelCpu, call: Call) -> Regs:
        x = call.regs
        number = x[0]  # Hafnium's own ids are 64 bits wide, the others 32
        base = number & W & ~(1 << 30)
        if base >> 16 == 0x8400 and base & 0xFFFF < 0x15:
            return (self.psci(vm, cpu, base & 0xFFFF, x) & X, *x[1:])
        if base >> 16 == 0x8400:
            answer = self.ff_a(vm, cpu, base & 0xFFFF, x)
            if answer is not None:
                return answer
        if number == 0xBD00_0000 or (call.smc and number == 0xFD00_0000):
            return (self.say(vm, x[1] & 0xFF), *x[1:])
        if not call.smc and 0xFF01 <= number <= 0xFF05:
            return (self.own(vm, cpu, number, x) & X, *x[1:])
        return (X, *x[1:])

    def say(self, vm: ModelVm, character: int) -> int:
        if character not in (0, 10):
            vm.log += bytes([character])
        if character in (0, 10) or len(vm.log) == 256:
            self.lines.append(vm.log)
            vm.log = b""
        return 0

    def psci(self, vm: ModelVm, cpu: ModelCpu, number: int, x: Regs) -> int:
        if number == 0:
            return 0x1_0001
        if number == 1:
            if cpu.up:
                return 0
            self.block(cpu, IRQ, (0, *x[1:]))
        if number == 2:
            raise Switch("WaitForInterrupt(timer=None)", (X - 2, *x[1:]), OFF)
        if number == 3:
            if x[1] & H > 1:
                return -2
            target = vm.cpus[x[1] & H]
            if target.state != OFF:
                return -4
            target.state, target.start = READY, (x[2], x[3])
            raise Switch(f"WakeUp(vm={vm.id}, vcpu={x[1] & H})", (0, *x[1:]))
        if number == 4:
            if x[1] & H > 1 or x[2] & W:
                return -2
            return int(vm.cpus[x[1] & H].state == OFF)
        if number == 10:
            asked = x[1] & ~(1 << 30)
            known = {0: 0, 1: 2, 2: 0, 3: 0, 4: 0, 10: 0}
            return known.get(asked - 0x8400_0000, -1)
        return -1

    def block(self, cpu: ModelCpu, state: str, regs: Regs) -> None:
        if self.left(cpu) == 0:
            raise AssertionError("time stands still")
        raise Switch(self.blocked(cpu, state), regs, state)

    def ff_a(self, vm: ModelVm, cpu: ModelCpu, number: int, x: Regs) -> Regs | None:
        mailbox = vm.mailbox
        one, two = x[1] >> 16 & 0xFFFF, x[1] & 0xFFFF
        if number == 0x63:
            return ffa(X if x[1] & 1 << 31 else 0x1_0000)
        if number == 0x64:
            asked = x[1] & W
            low = asked - 0x8400_0000
            there = asked == 0xC400_0066 or 0x60 <= low <= 0x70
            return GOOD if there and low not in (0x66, 0x67) else fail(NOT_SUPPORTED)
        if number == 0x65:
            if mailbox.state != READ:
                return fail(DENIED)
            mailbox.state = EMPTY
            return self.writable(vm)
        if number == 0x66:
            return self.rxtx_map(vm, x[1], x[2], x[3] & W)
        if number == 0x67:
            if x[1] & W or mailbox.mapped is None:
                return fail(INVALID)
            mailbox.mapped, mailbox.state = None, EMPTY
            return GOOD
        if number == 0x68:
            if any(word & W for word in x[1:5]):
                return fail(INVALID)
            if not mailbox.writable:
                return fail(BUSY)
            self.deliver(vm, 0, b"\1\0\x08\0\4\0\0\0\2\0\2\0\4\0\0\0\3\0\2\0\4\0\0\0")
            mailbox.state = READ
            return ffa(0x8400_0061, 0, 3)
        if number == 0x69:
            return ffa(0x8400_0061, 0, vm.id)
        if number in (0x6A, 0x6B):
            if cpu.serving:
                return fail(DENIED)
            if mailbox.state == RECEIVED:
                mailbox.state = READ
                return ffa(0x8400_006E, mailbox.sender << 16 | vm.id, 0, mailbox.size)
            if number == 0x6A:
                return fail(RETRY)
            if not cpu.up:
                self.block(cpu, MAIL, fail(INTERRUPTED))
            return fail(INTERRUPTED)
        if number == 0x6C:
            if cpu.serving:
                return fail(DENIED)
            raise Switch("Yield()", GOOD)
        if number == 0x6D:
            return fail(DENIED)
        if number == 0x6E:
            return self.msg_send(vm, cpu, one, two, x[3] & W, x[4] & 1)
        if number == 0x6F:
            return fail(NOT_SUPPORTED)
        if number == 0x70:
            if one != vm.id or two == vm.id:
                return fail(INVALID)
            if not cpu.serving or two != 1:
                return fail(DENIED)
            cpu.serving = False
            raise Switch(f"DirectResponse(words={x[3:8]!r})", ffa(0x8400_0062), MAIL)
        return None

    def rxtx_map(self, vm: ModelVm, tx: int, rx: int, pages: int) -> Regs:
        if vm.mailbox.mapped is not None:
            return fail(DENIED)
        if pages != 1 or tx % PAGE or rx % PAGE or tx == rx:
            return fail(INVALID)
        if not all(0 <= page - vm.base < len(vm.ram) for page in (tx, rx)):
            return fail(DENIED)
        vm.mailbox.mapped = (tx, rx)
        return self.writable(vm)

    def msg_send(
        self, vm: ModelVm, cpu: ModelCpu, sender: int, to: int, size: int, notify: int
    ) -> Regs:
        if sender != vm.id or to == vm.id or size > PAGE:
            return fail(INVALID)
        if cpu.serving:
            return fail(DENIED)
        target = self.mailbox(to)
        if to == 0x8000 and vm.mailbox.mapped is not None:
            return fail(BUSY)
        if target is None or vm.mailbox.mapped is None:
            return fail(INVALID)
        if not target.writable:
            if notify:
                self.refuse(target, vm.id)
            return fail(BUSY)
        offset = vm.mailbox.mapped[0] - vm.base
        data = bytes(vm.ram[offset : offset + size])
        if to == 1:
            target.state, target.sender, target.data = READ, vm.id, data
            told = size
        else:
            self.deliver(self.vms[to], vm.id, data)
            told = 0
        raise Switch(f"Message(sender={vm.id}, receiver={to}, size={told})", GOOD)

    def own(self, vm: ModelVm, cpu: ModelCpu, number: int, x: Regs) -> int:
        if number == 0xFF01:
            return vm.mailbox.ready.pop(0) if vm.mailbox.ready else -1
        if number == 0xFF02:
            return -1
        if number == 0xFF03:
            intid = x[1] & W
            if intid > 63:
                return -1
            (cpu.enabled.add if x[2] else cpu.enabled.discard)(intid)
            return 0
        if number == 0xFF04:
            both = cpu.enabled & cpu.pending
            cpu.pending -= {min(both, default=-1)}
            return min(both, default=W)
        intid = x[3] & W
        if intid > 63 or x[1] & H != vm.id or x[2] & H > 1:
            return -1
        target = vm.cpus[x[2] & H]
        was_up = target.up
        target.pending.add(intid)
        if target.up and not was_up and target is not cpu:
            raise Switch(f"WakeUp(vm={vm.id}, vcpu={x[2] & H})", (0, *x[1:]))
        return 0
