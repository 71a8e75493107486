"""From a call of `run()` to its result: drive, resume, replay and reproduce a run; record its provenance; say why a task ran.

Here a graph, an engine, a store and a journal meet. It knows nothing of commands and pages.
Imports every folder below.
"""
