"""Named models of a project: register one from a run, load one by name, remember which are trusted.

It knows nothing of the formats' libraries and of how a registry is asked: `models` does. Imports `models`, `tracking`,
`running` (the run that a model came from) and every folder below.
"""
