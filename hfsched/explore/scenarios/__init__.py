"""Scenarios that come with the project, by name; every subsystem brings its own."""
