"""CPUs of arm64 and x86-64 guests under KVM: raw ioctls through a small C core.

- `core.h`: the interface of the C core. `run.c`, `vcpu.c` and `arm64_*.c` or `x86_64_*.c`: its units.
  It enters the guest and does no more: mechanism, no policy.
- `build_core`: the cffi extension `_core` made of them.
- `device`: whether this machine has a usable KVM, and the remedy if not.
- `slots`: guest memory as KVM's slots (pure).
- `gate`: keeps CPUs out of the guest while its memory changes, and admits them in between.
- `tables`: the first page tables of an x86-64 guest (pure).
- `cpu`, `space`, `engine`: the protocol of `hfsched.vcpu.engine`.

WFI on arm64 stays in the kernel: RUN never reports it there.
"""
