"""The append-only record of everything that happened: typed events, one segment a process, writers, readers and views.

Nothing else keeps a second truth. It knows nothing of engines and of how anything is shown. Imports `base`.
"""
