"""The life of a service: serve a file, supervise replicas, reload on change, report what was measured.

It knows nothing of HTTP (`serving`) and of Envoy's configuration (`proxy`). Imports every folder below.
"""
