"""A project's named models: register one from a run, load one by name, remember the trusted ones.

It knows nothing of the formats' libraries and of access to registries: `models` does. Imports `models`, `tracking`,
`running` (the run that a model came from) and every folder below.
"""
