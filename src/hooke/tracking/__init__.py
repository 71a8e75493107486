"""What user code logs while it runs: metrics, parameters, tags, files; into the journal, and nowhere else.

It knows nothing of trackers (`sinks`) and never blocks on a network. Imports `journal` and `base`.
"""
