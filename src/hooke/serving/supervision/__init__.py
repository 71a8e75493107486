"""Decides about the replicas of a service: which to start, which leaves, which is ended, and what the front may send to.

Pure: events and times in, actions out. Knows nothing of processes, sockets, clocks, models and Envoy; whoever drives it performs
its actions and tells it what happened. Imports `base` and the vocabulary of the journal.
"""
