"""Worlds of the machine that ships, `hfsched.vmm.machine.Machine`, as `hfsched run` makes it.

Above `control` in the layers, for it has the servers of host programs too.

- `scenario`: the scenario `machine` and its parameters, and `machineworld`, who takes part and what must hold;
- `world`: the machine, its memory and the task that starts and ends it;
- `hosts`: host programs inside the process;
- `clients`: clients of its sockets, and `servers`, who serve them;
- `swap`: swap over the models of the scenario `swap`;
- `quiet`: the scenario `quiet`, of who looks whether nothing is on its way, and `looks`, who does;
- `subscribers`: the scenario `subscribers`, of the hub of events alone;
- `devices`: a device of a VM;
- `guests`: what its VMs boot, for the engine `script`;
- `siblings`: those of several vCPUs.
"""
