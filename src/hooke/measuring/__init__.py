"""`hooke measure`: measures a task at several N, and reports its scaling law and its COST.

`design` (pure) decides what to measure next. It knows nothing of commands. Imports `planning`, `running` and every folder
below.
"""
