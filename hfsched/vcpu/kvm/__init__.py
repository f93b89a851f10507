"""CPUs of arm64 and x86-64 guests under KVM: raw ioctls through a small C core.

- `core.c` with `arm64.c`, or with `x86_64.c` and `x86_64_state.c`: entering the guest, kicks,
  registers.  Mechanism alone.
- `build_core`: the cffi extension `_core` made of them.
- `device`: what of KVM this machine has, and the remedy for what it has not.
- `slots`: guest memory as KVM's slots (pure).
- `gate`: what keeps CPUs out of the guest while its memory changes, and lets them in between.
- `tables`: the first page tables of an x86-64 guest (pure).
- `cpu`, `space`, `engine`: what `hfsched.vcpu.engine` asks for.

WFI on arm64 stays in the kernel: RUN never reports it there.
"""
