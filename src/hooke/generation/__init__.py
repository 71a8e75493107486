"""Language models for many users: which requests get a token next, and which replica a prompt goes to. Pure.

`page_pool` keeps keys and values by pages that prompts share, `token_scheduler` decides what the next step of a model computes,
`prefix_router` sends a prompt to where its beginning is, and `prompt_balancer` says so by what replicas report. It knows nothing of models, sockets and clocks. Imports `base`.
"""
