"""Tasks, graphs and the one scheduler.

Knows what to run next and why; knows nothing of how a place runs it (`engine.Engine` is the seam).
Imports `hooke.keys`, `hooke.journal`, `hooke.store` and `hooke.base`. `graph`, `intervals` and
`run_state` are pure: no clock, no thread, no socket, no randomness.
"""
