"""`hooke demo`: the main job on real data, shown command by command.

Knows nothing that a user could not type: each step is a fresh process. Imports `cli` and every folder below it.
"""
