"""How a run shows itself while it goes on: a live table, lines, or HTML in a notebook.

It only reads the run's view: it knows nothing of engines. Imports `journal`, `project` and `base`.
"""
