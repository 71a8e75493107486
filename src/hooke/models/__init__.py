"""Formats in which models are saved, and registries that name them; one file per format and one per registry.

Nothing here runs code from a model unless the format is trusted. It knows nothing of projects and runs. Imports `base`.
"""
