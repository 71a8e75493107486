"""`hooke.search`: looks for the best parameters with an Optuna sampler. Each trial is a run.

It knows nothing of engines. Imports `running`, `comparing` and every folder below.
"""
