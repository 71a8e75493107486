"""Machines that are rented: the protocol of providers, the controller of a fleet, its ledger, and the keeper that performs and records.

The machines of `[fleets.NAME]` and the pods of a run are kept by the same controller. `controller` (pure) decides, `keeper` writes each
action to the ledger and then performs it. It knows no provider's library and no run. Imports `journal`, `kubernetes` and `base`.
"""
