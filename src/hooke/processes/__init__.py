"""Processes of this machine: their start, channels, leases, end with the parent, and exit reports.

It knows nothing of runs and services: engines, supervisors and studies start their processes here.
Imports `base`.
"""
