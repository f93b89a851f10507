"""Tests of the sockets of a running machine; `house` builds one."""
