"""Tests of the sockets of a running machine; `harness` builds one."""
