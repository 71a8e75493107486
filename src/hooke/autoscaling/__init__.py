"""How many workers or replicas there should be, and why: pure policies that take an observation and return a number with a sentence.

`run_size_policy` sizes a batch run, `service_policy` a service, `scale_to_zero` its last replica. They act on nothing: it knows nothing of providers and
processes. Imports `scaling`, `serving` (for windows of requests), `journal` and `base`.
"""
