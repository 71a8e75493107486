"""Who takes part in a fleet: its certificate authority, tokens that let a machine in once, and the exchange by which it joins.

Knows keys, files and sockets; knows nothing of engines, of rented machines, of projects or runs. Imports `hooke.base`.
"""
