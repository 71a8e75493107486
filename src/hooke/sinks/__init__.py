"""Trackers that logged values are shipped to: one file a tracker, all alike; `sink` is the protocol.

It knows nothing of projects and of when to ship. Imports `base`.
"""
