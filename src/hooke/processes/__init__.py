"""Processes of this machine: their start, channels, leases, end with the parent, exit reports, and what they use.

It knows nothing of runs and services: engines, supervisors and studies start their processes here.
Imports `base`.
"""
