"""Talks to a Kubernetes API server: who this process is there, objects as plain manifests, watches, logs and evictions.

It knows nothing of fleets, workers and runs, and has no types of its own for the API's: an object is a dictionary, as in
a manifest. Imports `base`.
"""
