"""Trackers to which logged values are sent, one file per tracker; `sink` is the protocol.

It knows nothing of projects and of when to send. Imports `base`.
"""
