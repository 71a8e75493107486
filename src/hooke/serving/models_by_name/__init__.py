"""Several models in one service, loaded when a request names them, within a budget of memory.

`model_cache.py` decides what is loaded and what is dropped (pure), `model_loads.py` loads. Imports `serving` and `base`.
"""
