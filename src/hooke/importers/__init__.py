"""Imports runs of other trackers: one file per format, and `landing`, which writes the journal.

It knows nothing of engines. Imports `journal`, `tracking`, `project` and `base`.
"""
