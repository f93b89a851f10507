"""The scheduler's tests; `world` and `house` are what they are told with."""
