"""The scheduler's tests; `world` and `harness` are what they are told with."""
