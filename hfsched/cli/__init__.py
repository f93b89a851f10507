"""The command line: one file for each group of commands, and what they share.

`main` finds the command; `output` is the one writer of standard output.  No lower layer uses a
terminal.
"""
