"""`hooke.search`: parameters from an Optuna sampler, each set tried as a run, the best one kept.

It knows nothing of engines. Imports `running`, `comparing` and every folder below.
"""
