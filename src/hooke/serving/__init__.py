"""Services: classes that answer requests, in batches, over HTTP, until a deadline, and drained before they end.

`batcher` decides and `windows` counts (both pure), `dispatch` and `model_thread` do what was decided, `replica` speaks ASGI,
`server` is the adapter to uvicorn, `supervision` decides about several replicas (pure), `front` spreads requests over them.
Knows nothing of projects, registries of models and commands, and of the journal its events alone: what a service's `setup`
takes is given to it, and what it did is taken from it.
Imports `base`, `journal.services` and `journal.replicas`, msgspec and NumPy; uvicorn in `server` alone.
"""
