"""Brings runs of another tracker into the project: one file a format that is read, and `landing`, which writes the journal.

It knows nothing of engines. Imports `journal`, `tracking`, `project` and `base`.
"""
