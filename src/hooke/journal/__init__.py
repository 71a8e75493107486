"""The append-only record of everything that happened in a run: events, one segment a process, readers.

Knows how to write, cut and follow segments and what an event is; knows nothing of who acts on them.
Imports `hooke.base` only.
"""
