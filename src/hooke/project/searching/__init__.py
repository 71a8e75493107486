"""Searches: parameters that an Optuna sampler asks for, each set of them tried as a run of its own, the best one kept."""
