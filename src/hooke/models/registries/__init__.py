"""Model registries, one file per access method; each implements `hooke.models.registry_protocol.ModelRegistry`. Imports `models` and `base`."""
