"""What a run would take, before it runs: curves from journals and studies, plans with intervals, advice on resources.

It predicts and never runs anything: it knows nothing of engines. Imports `scaling`, `journal`, `pipeline`, `project` and
below.
"""
