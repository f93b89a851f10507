"""The engine `script`: guests written as Python generators, for tests and for exploration.

A guest is a function of a `Cpu` that yields what a CPU would do and is sent what the CPU would see::

    def guest(cpu):
        regs = yield Hvc(0x84000069)      # the registers x0..x7 after the call
        cpu.write(cpu.base, b"hello")     # memory: the whole VM's, shared by its CPUs
        yield Wfi()

An interrupt is delivered between two yields: while the line is up, `cpu.masked` is False and
`cpu.handler` is set, the handler runs (masked) to its end before the guest resumes.  An abort that
the hypervisor injects is raised in the guest as `Abort`.

``ScriptEngine(runtime, recording=True)`` makes CPUs that can be saved and restored; `journal` says what
a guest must keep to for that.

`actions` is what a guest may yield, `cpu` runs it, `space` has its memory and the engine.

Implementation note.  Everything that other threads touch (kick, line) is a cell of the runtime, so
that an explorer sees it; the rest belongs to the thread inside `enter`.
"""

from hfsched.vcpu.script.actions import Abort, Action, Hvc, Load, Smc, Step, Store, Wfi
from hfsched.vcpu.script.cpu import Cpu, Guest, Program
from hfsched.vcpu.script.space import ScriptEngine, ScriptSpace

__all__ = [
    "Abort",
    "Action",
    "Cpu",
    "Guest",
    "Hvc",
    "Load",
    "Program",
    "ScriptEngine",
    "ScriptSpace",
    "Smc",
    "Step",
    "Store",
    "Wfi",
]
