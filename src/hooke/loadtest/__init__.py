"""Load tests: sends requests on an open-loop schedule, and finds the highest rate that meets the SLO.

`ladder` (pure) chooses the next rate; `generator` sends from a separate process. It knows nothing of models.
Imports `services` (to start the one under test) and every folder below.
"""
