"""`hooke measure`: a deliberate sweep over N. Plan it, take the measurements, report the law and the COST.

`design` (pure) says what to measure next. It knows nothing of commands. Imports `planning`, `running` and every folder
below.
"""
