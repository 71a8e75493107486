"""Load tests: requests that are sent when they are due, whatever the server does, and the highest rate that keeps the promise.

`ladder` (pure) chooses the next rate, `generator` sends in a process of its own. It knows nothing of models.
Imports `services` (to start the one under test) and every folder below.
"""
