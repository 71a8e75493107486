"""Envoy in front of a service's replicas: one port, with requests spread over the replicas.

`envoy_config` (pure) writes the configuration, `envoy` runs the program. It knows nothing of models, or why there are so
many replicas; it is given the addresses. Imports `serving`, `processes` and `base`.
"""
