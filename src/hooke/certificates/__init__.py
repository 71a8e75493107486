"""Mutual TLS of a fleet: its certificate authority, one-time join tokens, and the exchange by which a machine joins.

It knows nothing of engines, runs and Kubernetes. Imports `base`.
"""
