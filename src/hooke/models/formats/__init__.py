"""Formats of models: one file a library, all alike; each fulfils `hooke.models.format.Format`. Imports `models` and `base`."""
