"""Registries of models: one file a way to ask, all alike; each fulfils `hooke.models.registry.Registry`. Imports `models` and `base`."""
