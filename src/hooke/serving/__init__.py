"""Services: classes that answer requests, in batches, over HTTP, until a deadline, and drained before they end.

`gate` lets in, `exposure` and `tokens` say whom; `routes` lists what is answered, by `exchange`s of one request and one answer.
`bodies` has room for those that come at once.
`batcher` decides and `windows` counts (both pure), `dispatch` has done what was decided: `work`, by a `model_thread` or in a `process`; `replica` speaks ASGI,
`server` is the adapter to uvicorn, `supervision` decides about several replicas (pure), `front` spreads requests over them.
`laws` reads from windows how long a batch takes, `capacity` what a replica does by that, `staffing` how many are needed (all pure);
`counts` are what replicas counted, `prometheus` writes them, `scrape` tells those of all replicas.
`offline` answers a table without requests.
Knows nothing of projects, registries of models and commands, and of the journal its events alone: what a service's `setup`
takes is given to it, and what it did is taken from it.
Imports `base`, `journal.services` and `journal.replicas`, `scaling` in `laws` alone (SciPy takes half a second), msgspec and NumPy; uvicorn in
`server`, `connection` and `scrape` alone (what these stand on is in `footing`), prometheus_client in `prometheus`.
"""
