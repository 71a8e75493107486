"""How many workers or replicas there should be, and why: pure policies that take an observation and return a number with a sentence.

`run_size_policy` sizes a batch run, `service_policy` a service by its load, which `token_policy` counts in tokens for language models, `replayed_policy` by the rule that `replay` chose, and
`scale_to_zero` its last replica; `peers` has the rules of other autoscalers. They act on nothing: the folder knows nothing of providers
and processes. Imports `scaling`, `serving` (for windows of requests), `generation` (for the law of steps), `journal` and `base`.
"""
