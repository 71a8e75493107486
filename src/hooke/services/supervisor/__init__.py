"""Several replicas of one service as processes of this machine, with their proxy.

`supervision` (pure) decides from events; `supervisor` performs its actions and owns the clock. It knows nothing of
commands. Imports `services` and every folder below it.
"""
