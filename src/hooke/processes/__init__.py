"""Processes of this machine: how one starts, talks over a channel, keeps a lease, ends with its parent, and is reported.

It knows nothing of runs and services: engines, supervisors and studies all start their processes here.
Imports `base`.
"""
