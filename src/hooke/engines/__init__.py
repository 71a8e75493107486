"""Places that run attempts, one file each, all alike: `serial` is the reference, `local` the embedded default.

An engine knows processes, machines and its own library; it knows nothing of graphs, keys or what runs next.
Imports `hooke.pipeline` (the protocol and the worker's part) and the floors below. Engines never import each other.
"""
