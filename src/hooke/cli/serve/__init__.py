"""`hooke serve` and its verbs `status`, `logs`, `scale`, `drain` and `down`.

Knows nothing of how replicas are supervised. Imports `cli` and every folder below it.
"""
