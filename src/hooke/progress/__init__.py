"""The progress of a run while it runs: a live table, lines, or HTML in a notebook.

It reads only the run's view and knows nothing of engines. Imports `journal`, `project` and `base`.
"""
