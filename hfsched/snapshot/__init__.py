"""The files of a snapshot: layers, chains of them, and the commands that need no machine.

- `libraries`, `codec`: frames of at most 128 KiB, compressed by liblz4 or libzstd, or stored.
- `index`: the typed records of a layer's index; `layer`, `pagemap`: writing and reading one by
  descriptors.
- `chain`: a full layer and its incremental ones, read together.
- `directory`: the client's side, the only module that opens a path.
- `report`, `compare`: what `hfsched snapshot` prints, checks, compares and merges.

This package knows pages, names and opaque state; it knows no machine.  `docs/snapshot.md` has the format.
"""
