"""Open-loop load: requests that are sent when they are due, whatever the server does, and what became of each.

`arrivals`, `bodies`, `quantiles`, `summary` and `ladder` are pure: when requests are due, what they may be, what the answers tell and how surely, and which
rate is next. `connection` and `sender` are the adapter to uvloop, in the process of `generator`, which `process` starts and asks.
Knows nothing of projects, journals and commands, and of services only what they promise. Imports `base`, `serving.slo`, NumPy and
SciPy, httptools, and hdrhistogram in `hdr` alone.
"""
