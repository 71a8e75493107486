"""Services: classes that answer requests, in batches, over HTTP, until a deadline, and drained before they end.

`batcher` decides (pure), `dispatch` and `model_thread` do what it decided, `replica` speaks ASGI, `server` is the adapter to
uvicorn. Knows nothing of projects, registries of models, journals and commands: what a service's `setup` takes is given to it.
Imports `base`, msgspec and NumPy; uvicorn in `server` alone.
"""
