"""Tests of the memory room; the writers here build their inputs."""
