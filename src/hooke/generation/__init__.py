"""Language models for many users: which requests get a token next, and which replica a prompt goes to. Pure.

`page_pool` keeps keys and values by pages that prompts share, `token_scheduler` decides what the next step of a model computes,
`prefix_router` sends a prompt to where its beginning is, and `prompt_balancer` says so by what replicas report. `token_admission` says which requests would begin too late. `token_law` is the law of a step's time from ordinary traffic, and `token_times` what requests see of it.
It knows nothing of models, sockets and clocks. Imports `base`, `journal` (sums of steps) and `scaling` (estimates).
"""
