"""virtio's rings, as a device sees them: chains are taken out, and given back with what was written.

Sources: virtio 1.3, sections 2.7 (split) and 2.8 (packed).  `split.py` and `packed.py` have one interface (`Ring`), and know
memory alone: what waits for whom is in `hfsched.vhost.queue`.
"""
