"""Envoy in front of a service's replicas: one port, requests spread over the replicas.

`envoy_config` (pure) writes the configuration, `envoy` runs the program. It knows nothing of models and of why there are
how many replicas; it is told the addresses. Imports `serving` and `base`.
"""
