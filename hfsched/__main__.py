"""``python -m hfsched``."""

from hfsched.cli.main import entry

entry()
