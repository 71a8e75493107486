"""Envoy in front of a service's replicas: one port, with requests spread over the replicas.

`envoy_config` (pure) writes the configuration, `envoy` runs the program; `held_requests` (pure) decides about requests while there is no
replica, `activator` holds and forwards them. It knows nothing of models, or why there are so
many replicas; it is given the addresses. Imports `serving`, `processes` and `base`.
"""
