"""A run made again from its record: which anchors hold, the run itself, and how its results compare.

`values`, `anchors` and `verdicts` are pure. Knows nothing of the command line. Imports the project's driving and provenance,
and what lies below.
"""
