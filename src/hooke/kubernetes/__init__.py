"""Talks to a Kubernetes API server: who this process is there, objects as plain manifests, watches, logs and evictions.

`pods` says what a pod that works for Hooke is made of, and what keeps one from working; `driver_job` what the driver of a run is
made of, `node_pool` what nodes CoreWeave is asked for. It knows nothing of fleets and engines, and has no types of its own for the
API's: an object is a dictionary, as in a manifest. Imports `base`.
"""
