"""Tasks, graphs, cache keys of nodes, and the one scheduler: what runs next, what is retried, what a failure says.

`run_state.step` (pure) decides; `runner` performs and writes the journal first. It knows nothing of processes, machines
and commands: an engine is a protocol here. Imports `tracking`, `journal`, `keys`, `store` and `base`.
"""
