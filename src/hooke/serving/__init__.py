"""The path of a request through one replica: HTTP, auth, payloads, batcher, model, response, metrics.

`batcher` (pure) decides what the model runs next. It knows nothing of processes beside its own, Envoy or the project
folder. Imports `journal` (windows are events), `processes` and `base`.
"""
