"""Pages of our own: a run as one page, in a file to mail (`run.html`) or live in a browser, and the list of runs.

`run_report` and `timeline` read a journal into plain values, `rendering` makes HTML of them, `server` serves it on loopback.
It knows nothing of commands, nor of what a run costs: callers pass that. Imports `charts`, `diagrams`, `journal`, `tracking`, `project` and `base`.
"""
