"""Tests of `hfsched.explore.campaign`."""
