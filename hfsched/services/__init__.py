"""Utility services: requests between host and guest that survive pauses, restores and hibernation.

Here are the transactions, the messages on the wire, the services, and both sides' state machines; all
that waits takes an injected `Runtime`.  Nothing here knows a socket, a machine or an engine: messages go
through a `Transport`.  `docs/services.md` is for users and for authors of guests.
"""
