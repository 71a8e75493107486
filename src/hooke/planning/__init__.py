"""Predicts what a run would take: scaling curves from journals and studies, plans with intervals, advice on resources.

It runs nothing and knows nothing of engines. Imports `scaling`, `journal`, `pipeline`, `project` and
below.
"""
