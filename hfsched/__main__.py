"""``python -m hfsched``."""

from hfsched.cli.entry import entry

entry()
