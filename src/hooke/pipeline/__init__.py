"""Tasks, graphs, cache keys of nodes, and the scheduler: what runs next, what is retried, what a failure says.

`run_state` (pure) decides; `runner` acts, and writes the journal first. It knows nothing of processes, machines
and commands: an engine is a protocol here. Imports `tracking`, `journal`, `keys`, `store`, `processes` and `base`.
"""
