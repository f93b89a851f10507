"""Tests of `hfsched.memory`; the writers here build their inputs."""
