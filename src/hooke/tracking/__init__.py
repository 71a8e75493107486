"""What user code logs while it runs: metrics, parameters, tags, files; into the journal, and nowhere else.

It knows nothing of trackers (`sinks`), except that MLflow's own calls in a task belong to that task's run, and never blocks on a network. Imports `journal` and `base`.
"""
