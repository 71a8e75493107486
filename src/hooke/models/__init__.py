"""Formats that models are saved in, and the registries that name them; one file a format and one a registry.

Nothing here runs code from a model unless the format is trusted. It knows nothing of projects and runs. Imports `base`.
"""
