"""Bringing what was logged into trackers: an outbox a run, a cursor a sink, one process that ships for the project."""
