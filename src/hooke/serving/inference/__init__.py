"""The Open Inference Protocol V2 over REST: what its clients send and want back, and a service's methods as its models.

`datatypes`, `tensors`, `messages`, `requests` and `responses` are the protocol's own words as values (pure); `models` finds
what a service offers in them; `compression` and `protocol` are what HTTP adds. Knows nothing of sockets, servers and commands.
Imports `base`, msgspec, NumPy, and of `serving` what describes methods and refuses requests.
"""
