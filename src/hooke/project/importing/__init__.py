"""Bringing runs of another tracker into the project: one file a format that is read, one that lands what they read.

Readers know a format and nothing of the project; `landing` knows runs and nothing of formats; `source` is what both
speak. Imports `journal`, `tracking` and `base`. PyArrow is imported by `neptune_dump`
alone, Neptune's messages by `neptune_scale`.
"""
