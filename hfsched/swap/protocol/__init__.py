"""The messages between processes: types, encoding, bounds.  No I/O.

- `messages`: main and the monitor.
- `childmessages`: main and a child.
"""
