"""How many workers a run has while it goes on: what the scheduler has left, the laws and the prices, shown to `hooke.fleet.policy`.

Knows no engine and no machine. Imports `hooke.fleet`, `hooke.pipeline`, the project's laws and the floors below.
"""
