"""From a hypercall's registers to the operation that answers it."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from hfsched.abi.dialect import Call, Dialect, Op, Regs, find
from hfsched.abi.generations import unknown_function
from hfsched.errors import InternalError
from hfsched.hypervisor import basics, messaging, power
from hfsched.hypervisor.reply import Reply
from hfsched.vcpu.engine import Conduit, Hypercall
from hfsched.vcpu.registers import ARGUMENTS

if TYPE_CHECKING:
    from hfsched.hypervisor.context import Context
    from hfsched.hypervisor.vm import Vcpu

__all__ = ["Calls", "table_of"]

Handler = Callable[..., Reply]
# {decoder, handler, the instruction by which it is unknown, how many registers to read where eight are
# not enough, else 0}
Bound: TypeAlias = tuple[Callable[[Regs], tuple[int, ...]], Handler, Conduit | None, int]
Table: TypeAlias = dict[int, Bound]

HANDLERS: dict[Op, Handler] = {
    Op.DEBUG_LOG: basics.debug_log,
    Op.VERSION: basics.version,
    Op.FEATURES: basics.features,
    Op.ID_GET: basics.id_get,
    Op.PARTITION_INFO_GET: basics.partition_info_get,
    Op.YIELD: basics.yield_,
    Op.RUN: basics.run,
    Op.NOT_SUPPORTED: basics.not_supported,
    Op.INTERRUPT_ENABLE: basics.interrupt_enable,
    Op.INTERRUPT_GET: basics.interrupt_get,
    Op.INTERRUPT_INJECT: basics.interrupt_inject,
    Op.RXTX_MAP: messaging.rxtx_map,
    Op.RXTX_UNMAP: messaging.rxtx_unmap,
    Op.RX_RELEASE: messaging.rx_release,
    Op.MSG_SEND: messaging.msg_send,
    Op.MSG_WAIT: messaging.msg_wait,
    Op.MSG_POLL: messaging.msg_poll,
    Op.DIRECT_REQUEST: messaging.direct_request,
    Op.DIRECT_RESPONSE: messaging.direct_response,
    Op.WRITABLE_GET: messaging.writable_get,
    Op.WAITER_GET: messaging.waiter_get,
    Op.PSCI_VERSION: power.psci_version,
    Op.PSCI_FEATURES: power.psci_features,
    Op.PSCI_NOT_SUPPORTED: power.psci_not_supported,
    Op.CPU_SUSPEND: power.cpu_suspend,
    Op.CPU_OFF: power.cpu_off,
    Op.CPU_ON: power.cpu_on,
    Op.AFFINITY_INFO: power.affinity_info,
}


_TABLES: dict[Dialect, Table] = {}


def table_of(dialect: Dialect) -> Table:
    """Return a dialect's table, made once.  Raises InternalError for an operation without handler.

    It is in the order of the ids: where two collide, the first is found at once, and the calls of
    interrupts have the lowest.
    """
    found = _TABLES.get(dialect)
    if found is None:
        missing = {call.op.name for call in dialect.calls.values() if call.op not in HANDLERS}
        if missing:
            raise InternalError(f"dialect {dialect.name}: no handler for {', '.join(missing)}")
        found = _TABLES[dialect] = {
            number: (
                call.decode,
                HANDLERS[call.op],
                _barred(call),
                call.registers if call.registers > ARGUMENTS else 0,
            )
            for number, call in sorted(dialect.calls.items(), key=itemgetter(0))
        }
    return found


def _barred(call: Call) -> Conduit | None:
    if not call.hvc:
        return Conduit.HVC
    return None if call.smc else Conduit.SMC


class Calls:
    """Answers hypercalls."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._noticed: dict[int, object] = {}  # by VM: who reported its first unknown function

    def dispatch(self, vcpu: Vcpu, call: Hypercall) -> Reply:
        """Do what the guest asks for; an id that is not in its dialect gets the dialect's answer."""
        dialect = vcpu.vm.dialect
        table = _TABLES.get(dialect) or table_of(dialect)
        bound = table.get(call.args[0])
        if bound is None:
            number = find(dialect.calls, call.args[0])
            if number is None:
                return self._unknown(vcpu, call)
            bound = table[number]
        decode, handler, barred, extended = bound
        if barred is not None and call.conduit is barred:
            return self._unknown(vcpu, call)
        args = decode(vcpu.cpu.arguments(extended) if extended else call.args)
        if args:
            return handler(self._context, vcpu, *args)
        return handler(self._context, vcpu)  # unpacking nothing takes time too

    def _unknown(self, vcpu: Vcpu, call: Hypercall) -> Regs:
        """Answer a function that the VM's dialect does not know; its user is told of the first."""
        vm, notice = vcpu.vm, self._context.notice
        if notice is not None and vm.id not in self._noticed:
            mine = object()  # without a lock: of two vCPUs, one is the first
            if self._noticed.setdefault(vm.id, mine) is mine:
                smc = call.conduit is Conduit.SMC
                notice(vm.name, unknown_function(vm.dialect, call.args[0], smc=smc))
        return vm.dialect.unknown
