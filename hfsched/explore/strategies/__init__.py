"""Strategies: who goes next.  One file each, with its source."""
