"""Sends what runs logged to trackers: an outbox per run, a cursor per sink, one process per project.

It knows nothing of a tracker's format: `sinks` does. Imports `sinks`, `tracking`, `journal`, `project`, `processes` and `base`.
"""
