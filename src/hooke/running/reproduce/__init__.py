"""`hooke reproduce`: run a pipeline or script again from its record, and compare the results.

`conditions` checks the recorded conditions, `rerun` and `rerun_child` run the code in a child process, `result_comparison`
compares. It knows nothing of commands. Imports `running` and every folder below it.
"""
