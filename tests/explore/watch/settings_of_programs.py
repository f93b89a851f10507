"""A module whose variable programs write and import."""

limit = 1
