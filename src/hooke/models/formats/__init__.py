"""Formats of models, one file per library; each implements `hooke.models.format.Format`. Imports `models` and `base`."""
