"""The fleets of a project: their settings and folders, certificates of members, what dead drivers left, and the elastic size of a run.

Who decides on machines and keeps the ledger is in `machines`. It knows nothing of a provider's library. Imports `autoscaling`, `machines`,
`providers`, `certificates`, `planning` and every folder below.
"""
