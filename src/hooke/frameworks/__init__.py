"""Adapters to training frameworks, one module a framework: loaders of shuffled data, process groups, checkpoints.

It knows nothing of runs, engines and trackers, and its modules know no other framework than their own. Imports `data`, `store`
and `base`.
"""
