"""Counters, which other packages increment.  This package imports no other."""
