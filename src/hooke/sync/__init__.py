"""Ships what runs logged into trackers: an outbox for each run, a cursor for each sink, one process for a project.

It knows nothing of a tracker's format: `sinks` does. Imports `sinks`, `tracking`, `journal`, `project`, `processes` and `base`.
"""
