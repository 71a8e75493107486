"""`hooke reproduce`: make a run again from its record, and compare the results.

`conditions` checks which recorded conditions hold, `child_runs` runs it in processes of its own, `result_comparison`
compares. It knows nothing of commands. Imports `running` and every folder below it.
"""
