"""Random runs of the whole hypervisor, step by step beside a model of it (`hv_model`).

Two VMs with two vCPUs each make any calls with any registers, by HVC and SMC, load, store, and set
timers, while the primary runs, sends, takes, releases, drains, injects, preempts, asks directly,
and lets time pass.  After each step: what RUN returned, every register that a guest saw, every
mailbox, every vCPU's state and interrupts, the lines, and every byte of memory.
"""

from __future__ import annotations

from hv_bench import BASE, PAGES, RX, TX, Bench, full
from hv_model import Access, Arm, Call, Model, ModelCpu, ModelVm, Todo
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hfsched.hypervisor.vm import VcpuState
from hfsched.vcpu.script import Abort, Action, Cpu, Hvc, Load, Smc, Step, Store

X = (1 << 64) - 1
vms = st.sampled_from([2, 3])
cpus = st.sampled_from([0, 1])
intids = st.sampled_from([0, 1, 2, 3, 3, 31, 32, 63, 64])
sizes = st.sampled_from([0, 1, 8, 4095, 4096])

FUNCTIONS = [
    *range(0x8400_0000, 0x8400_0016),
    *range(0x8400_0060, 0x8400_0071),
    0x8400_0075,
    0x8400_0078,
    *range(0xFF00, 0xFF08),
    0xBD00_0000,
]
functions = st.one_of(
    st.sampled_from(FUNCTIONS),
    st.sampled_from(FUNCTIONS).map(lambda number: number | 1 << 30),
    st.sampled_from(FUNCTIONS).map(lambda number: number | 0xABCD << 32),
    st.integers(0, X),
).filter(lambda number: not 0x8400_0071 <= number & 0xBFFF_FFFF <= 0x8400_007B)
numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 5, 63, 64, 4096, 4097, X, 1 << 31, 1 << 63]),
    st.sampled_from([2 << 16 | 3, 2 << 16 | 1, 3 << 16 | 2, 3 << 16 | 1, 1 << 16 | 2]),
    st.sampled_from([BASE, TX, RX, BASE + PAGES * 4096, TX + 1]),
    st.sampled_from(FUNCTIONS),
    st.integers(0, X),
)
registers = st.tuples(functions, *[numbers] * 7)
CONVENTIONS = st.sampled_from([0, 0, 1 << 30])

STATES = {
    "off": VcpuState.OFF,
    "ready": VcpuState.READY,
    "blocked on mailbox": VcpuState.BLOCKED_MAILBOX,
    "blocked on irq": VcpuState.BLOCKED_INTERRUPT,
    "aborted": VcpuState.ABORTED,
}


def action(todo: Todo) -> Action:
    if isinstance(todo, Call):
        return (Smc if todo.smc else Hvc)(*todo.regs)
    assert isinstance(todo, Access)
    if todo.value is None:
        return Load(todo.address)
    return Store(todo.address, todo.value)


class Beside(RuleBasedStateMachine):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.hv = self.bench.hv
        self.machines = {vm.id: vm for vm in (self.bench.vm(vcpus=2, mapped=False) for _ in "ab")}
        self.model = Model(
            [
                ModelVm(
                    vm.id,
                    BASE,
                    vm.entry,
                    bytearray(PAGES * 4096),
                    [ModelCpu(0), ModelCpu(1)],
                )
                for vm in self.machines.values()
            ],
            self.bench.clock.time,
        )
        for vm in self.machines.values():
            for seen in vm.seen:
                seen.clear()

    def free(self, vm: int, index: int) -> None:
        """Wake a vCPU that has been blocked for some steps, so that it does not sleep for good."""
        cpu = self.model.vms[vm].cpus[index]
        if cpu.state.startswith("blocked") and len(cpu.todo) > 2:
            for intid in cpu.enabled or {3}:
                self.inject(vm, index, intid)
            self.tick(100)

    def step(self, vm: int, index: int, *todo: Todo) -> None:
        """Give a vCPU something to do, and RUN it."""
        self.free(vm, index)
        machine, cpu = self.machines[vm], self.model.vms[vm].cpus[index]
        for what in todo:
            cpu.todo.append(what)
            if isinstance(what, Arm):

                def arm(cpu: Cpu, delay: int | None = what.delay) -> Action:
                    cpu.arm(delay)
                    return Step()

                machine.todo[index].append(arm)
            else:
                machine.todo[index].append(action(what))
        assert str(self.hv.run(vm, index)) == self.model.run(vm, index)

    def call(self, vm: int, index: int, *args: int, smc: bool = False) -> None:
        self.step(vm, index, Call(tuple(full(*args)), smc))

    @initialize(mapped=st.sampled_from([(2, 3), (2, 3), (2, 3), (2,), ()]))
    def map_some(self, mapped: tuple[int, ...]) -> None:
        for vm in (2, 3):
            for cpu in (0, 1):
                self.enable(vm, cpu, 3, on=True)
        for vm in mapped:
            self.call(vm, 0, 0xC400_0066, TX, RX, 1)

    # The guests.

    @rule(vm=vms, cpu=cpus, regs=registers, smc=st.booleans())
    def any_call(self, vm: int, cpu: int, regs: tuple[int, ...], *, smc: bool) -> None:
        if regs[0] & 0xBFFF_FFFF == 0x8400_0003 and regs[1] < 2:
            regs = (*regs[:2], self.machines[vm].entry, *regs[3:])
        self.step(vm, cpu, Call(regs, smc))

    @rule(
        vm=vms,
        cpu=cpus,
        number=st.sampled_from([0x65, 0x65, 0x69, 0x6A, 0x6B, 0x6B, 0x6C]),
        bit=CONVENTIONS,
        smc=st.booleans(),
    )
    def plain_call(self, vm: int, cpu: int, number: int, bit: int, *, smc: bool) -> None:
        self.call(vm, cpu, 0x8400_0000 | number | bit, smc=smc)

    @rule(vm=vms, cpu=cpus, to=st.sampled_from([1, 2, 3]), size=sizes, notify=st.booleans())
    def send(self, vm: int, cpu: int, to: int, size: int, *, notify: bool) -> None:
        self.call(vm, cpu, 0x8400_006E, vm << 16 | to, 0, size, int(notify))

    @rule(vm=vms, cpu=cpus, words=st.tuples(*[numbers] * 5))
    def respond(self, vm: int, cpu: int, words: tuple[int, ...]) -> None:
        self.call(vm, cpu, 0x8400_0070, vm << 16 | 1, 0, *words)

    @rule(vm=vms, cpu=cpus, pages=st.sampled_from([(TX, RX), (RX, TX), (BASE, RX), (TX, TX)]))
    def map(self, vm: int, cpu: int, pages: tuple[int, int]) -> None:
        self.call(vm, cpu, 0xC400_0066, *pages, 1)

    @rule(vm=vms, cpu=cpus, again=st.sampled_from([True, True, True, False]))
    def unmap(self, vm: int, cpu: int, *, again: bool) -> None:
        self.call(vm, cpu, 0x8400_0067, 0)
        if again:
            self.call(vm, cpu, 0xC400_0066, TX, RX, 1)

    @rule(vm=vms, cpu=cpus, bit=CONVENTIONS, release=st.booleans())
    def partitions(self, vm: int, cpu: int, bit: int, *, release: bool) -> None:
        self.call(vm, cpu, 0x8400_0068 | bit, 0, 0, 0, 0)
        if release:
            self.call(vm, cpu, 0x8400_0065)

    @rule(vm=vms, cpu=cpus, other=cpus, entry=st.integers(0, 19))
    def cpu_on(self, vm: int, cpu: int, other: int, entry: int) -> None:
        self.call(vm, cpu, 0x8400_0003, other, self.machines[vm].entry if entry else 0x666, 0)

    @rule(vm=vms, cpu=cpus, number=st.sampled_from([1, 4]))
    def power(self, vm: int, cpu: int, number: int) -> None:
        self.call(vm, cpu, 0x8400_0000 | number, 1, 0)

    @rule(vm=vms, cpu=cpus, other=cpus, intid=intids)
    def self_inject(self, vm: int, cpu: int, other: int, intid: int) -> None:
        self.call(vm, cpu, 0xFF05, vm, other, intid)

    @rule(vm=vms, cpu=cpus, intid=intids, on=st.booleans())
    def enable(self, vm: int, cpu: int, intid: int, *, on: bool) -> None:
        self.call(vm, cpu, 0xFF03, intid, int(on))

    @rule(vm=vms, cpu=cpus, number=st.sampled_from([0xFF01, 0xFF04]))
    def get(self, vm: int, cpu: int, number: int) -> None:
        self.call(vm, cpu, number)

    @rule(vm=vms, cpu=cpus, character=st.sampled_from([10, 0, 65, 255]))
    def say(self, vm: int, cpu: int, character: int) -> None:
        self.call(vm, cpu, 0xBD00_0000, character)

    @rule(
        vm=vms,
        cpu=cpus,
        word=st.integers(-1, PAGES * 512),
        value=st.one_of(st.none(), st.integers(0, X)),
    )
    def access(self, vm: int, cpu: int, word: int, value: int | None) -> None:
        self.step(vm, cpu, Access(BASE + 8 * word, value))

    @rule(vm=vms, data=st.binary(min_size=1, max_size=16))
    def fill_tx(self, vm: int, data: bytes) -> None:
        self.machines[vm].put(data)
        self.model.vms[vm].ram[TX - BASE : TX - BASE + len(data)] = data

    @rule(vm=vms, cpu=cpus, delay=st.sampled_from([None, 0, 1, 10]))
    def arm(self, vm: int, cpu: int, delay: int | None) -> None:
        self.step(vm, cpu, Arm(delay))

    # What seldom happens by chance: several steps that belong together, each still checked.

    @rule(vm=vms, cpu=cpus, size=sizes, by=st.sampled_from([0x6A, 0x6B]), release=st.booleans())
    def receive(self, vm: int, cpu: int, size: int, by: int, *, release: bool) -> None:
        self.primary_send(vm, b"m" * size, on=False)
        self.call(vm, cpu, 0x8400_0000 | by)
        if release:
            self.call(vm, cpu, 0x8400_0065)

    @rule(vm=vms, cpu=cpus, other=cpus, to=st.sampled_from([1, 2, 3]), drain=st.booleans())
    def be_refused(self, vm: int, cpu: int, other: int, to: int, *, drain: bool) -> None:
        for _ in "ab":
            self.send(vm, cpu, to, 4, notify=True)
        if to == 1:
            self.rx_take()
            self.rx_release()
        else:
            self.call(to, other, 0x8400_006A)
            self.call(to, other, 0x8400_0065)
        if drain:
            self.waiter(to)
            self.waiter(to)
            self.get(vm, cpu, 0xFF01)

    @rule(vm=vms, cpu=cpus, intid=intids, wait=st.sampled_from([None, 0x01, 0x6B]))
    def interrupt(self, vm: int, cpu: int, intid: int, wait: int | None) -> None:
        self.enable(vm, cpu, intid, on=True)
        if wait is not None:
            self.call(vm, cpu, 0x8400_0000 | wait)
        self.inject(vm, cpu, intid)
        self.get(vm, cpu, 0xFF04)

    @rule(vm=vms, cpu=cpus, intid=intids)
    def wake_the_other(self, vm: int, cpu: int, intid: int) -> None:
        self.enable(vm, 1 - cpu, intid, on=True)
        self.self_inject(vm, cpu, 1 - cpu, intid)
        self.run(vm, 1 - cpu)

    @rule(vm=vms, cpu=cpus, words=st.tuples(*[numbers] * 5), answer=st.booleans())
    def ask(self, vm: int, cpu: int, words: tuple[int, ...], *, answer: bool) -> None:
        self.call(vm, cpu, 0x8400_006B)
        self.direct_request(vm, cpu, words)
        if answer:
            self.respond(vm, cpu, words)

    @rule(vm=vms, cpu=cpus, delay=st.sampled_from([1, 10]), wait=st.sampled_from([0x01, 0x6B]))
    def sleep(self, vm: int, cpu: int, delay: int, wait: int) -> None:
        self.arm(vm, cpu, delay)
        self.call(vm, cpu, 0x8400_0000 | wait)
        self.tick(delay)
        self.run(vm, cpu)

    @rule(vm=vms, cpu=cpus, entry=st.sampled_from([1] * 15 + [0]))
    def restart(self, vm: int, cpu: int, entry: int) -> None:
        self.call(vm, cpu, 0x8400_0002)
        self.cpu_on(vm, 1 - cpu, cpu, entry)
        self.run(vm, cpu)

    # The primary, and time.

    @rule(vm=vms, cpu=cpus)
    def run(self, vm: int, cpu: int) -> None:
        self.step(vm, cpu)

    @rule(vm=vms, cpu=cpus)
    def preempt(self, vm: int, cpu: int) -> None:
        self.hv.preempt(vm, cpu)
        self.model.vms[vm].cpus[cpu].kicked = True

    @rule(to=st.sampled_from([0, 1, 2, 3, 2, 3]), data=st.binary(max_size=9), on=st.booleans())
    def primary_send(self, to: int, data: bytes, *, on: bool) -> None:
        assert self.hv.send(to, data, notify=on).value == self.model.send(to, data, notify=on)

    @rule()
    def rx_take(self) -> None:
        mailbox = self.model.primary
        assert self.hv.rx_take() == (
            (mailbox.sender, mailbox.data) if mailbox.state == "read" else None
        )

    @rule()
    def rx_release(self) -> None:
        mailbox = self.model.primary
        was, mailbox.state = mailbox.state, "empty"
        assert self.hv.rx_release() is (was == "read" and bool(mailbox.waiters))

    @rule(vm=st.sampled_from([0, 1, 1, 2, 2, 3, 3, 4]))
    def waiter(self, vm: int) -> None:
        assert self.hv.waiter(vm) == self.model.waiter(vm)

    @rule()
    def writable(self) -> None:
        ready = self.model.primary.ready
        assert self.hv.writable() == (ready.pop(0) if ready else None)

    @rule(
        vm=st.sampled_from([0, 1, 2, 2, 3, 3, 4]),
        cpu=st.sampled_from([-1, 0, 0, 1, 1, 2]),
        i=intids,
    )
    def inject(self, vm: int, cpu: int, i: int) -> None:
        assert self.hv.inject(vm, cpu, i).value == self.model.inject(vm, cpu, i)

    @rule(vm=vms, cpu=cpus, words=st.tuples(*[numbers] * 5))
    def direct_request(self, vm: int, cpu: int, words: tuple[int, ...]) -> None:
        got = self.hv.direct_request(vm, cpu, words)
        assert str(got) == self.model.direct_request(vm, cpu, words)

    @rule(ns=st.sampled_from([1, 9, 10]))
    def tick(self, ns: int) -> None:
        self.bench.clock.time += ns
        self.model.now += ns

    # What holds after each step.

    @invariant()
    def guests_saw_what_the_model_says(self) -> None:
        for number, vm in self.machines.items():
            for seen, cpu in zip(vm.seen, self.model.vms[number].cpus, strict=True):
                assert [str(s) if isinstance(s, Abort) else s for s in seen] == cpu.seen
                assert all(
                    type(x) is int and 0 <= x <= X for s in seen if type(s) is tuple for x in s
                )
                seen.clear()
                cpu.seen.clear()

    @invariant()
    def mailboxes_are_the_models(self) -> None:
        for number in (1, 2, 3):
            party, model = self.bench.registry.find(number), self.model.mailbox(number)
            assert party is not None
            assert model is not None
            mailbox = party.mailbox
            assert (mailbox.state.value, mailbox.waiters, mailbox.ready) == (
                (model.state, model.waiters, model.ready)
            )
            assert len({*mailbox.waiters}) == len(mailbox.waiters)
            assert len({*mailbox.ready}) == len(mailbox.ready)
            assert (mailbox.message is None) == (model.state == "empty")
            assert model.writable is mailbox.writable

    @invariant()
    def vcpus_are_the_models(self) -> None:
        for number, vm in self.machines.items():
            model = self.model.vms[number]
            assert vm.record.abort_reason == model.dead
            assert vm.record.aborting is (model.dead is not None)
            for vcpu, cpu in zip(vm.record.vcpus, model.cpus, strict=True):
                assert not vcpu.claimed
                assert vcpu.state is STATES[cpu.state]
                assert vcpu.interrupts.enabled == sum(1 << intid for intid in cpu.enabled)
                assert vcpu.interrupts.pending == sum(1 << intid for intid in cpu.pending)
                assert vm.space.vcpu(vcpu.index)._line.get() is vcpu.line is cpu.up
                assert vcpu.direct_origin == (1 if cpu.serving else None)

    @invariant()
    def memory_is_the_models(self) -> None:
        for number, vm in self.machines.items():
            assert vm.ram.read(0, vm.ram.size) == self.model.vms[number].ram

    @invariant()
    def lines_are_the_models(self) -> None:
        assert [line for _, line in self.bench.lines] == self.model.lines

    def teardown(self) -> None:
        for vm in self.machines.values():
            vm.ram.close()


TestBeside = Beside.TestCase
TestBeside.settings = settings(
    max_examples=120, stateful_step_count=60, deadline=None, derandomize=True, database=None
)
