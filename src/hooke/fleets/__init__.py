"""Machines that are rented and kept: the ledger, the controller, certificates of members, and the elastic size of a run.

`controller` (pure) decides, `keeper` performs what it returns and records it first. It knows nothing of a provider's
library. Imports `autoscaling`, `providers`, `certificates`, `planning` and every folder below.
"""
