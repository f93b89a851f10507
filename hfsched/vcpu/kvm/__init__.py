"""CPUs of arm64 and x86-64 guests under KVM: raw ioctls through a small C core.

- `core.h`: the interface of the C core. `run.c`, `vcpu.c` and `arm64_*.c` or `x86_64_*.c`: its units.
  It enters the guest and does no more: mechanism, no policy.
- `build_core`: the cffi extension `_core` made of them.
- `device`: what of KVM this machine has, and the remedy for what it has not.
- `slots`: guest memory as KVM's slots (pure).
- `gate`: what keeps CPUs out of the guest while its memory changes, and lets them in between.
- `tables`: the first page tables of an x86-64 guest (pure).
- `cpu`, `space`, `engine`: what `hfsched.vcpu.engine` asks for.

WFI on arm64 stays in the kernel: RUN never reports it there.
"""
