"""How many workers there should be, and why; what was rented and must end.

`policy` decides from an `Observation` and the time, purely. Knows nothing of engines, machines, sockets, runs or clocks.
Imports `hooke.scaling`, `hooke.journal` and `hooke.base`.
"""
