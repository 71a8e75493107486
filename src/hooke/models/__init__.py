"""Models with names: saved in formats that are safe to read, kept in a registry under versions and aliases, read back quickly.

`formats` turn a model into files and back, `registries` ask a registry of models (MLflow's) what it holds; one file each,
all alike. Knows nothing of runs, projects and settings. A model is files with a manifest; the manifest's digest is the
model's name for itself, and what a project knows it by. Imports `base`.
"""
