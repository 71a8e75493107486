"""Registries of models: one file a way to ask, all alike; each fulfils `hooke.models.registry_protocol.ModelRegistry`. Imports `models` and `base`."""
