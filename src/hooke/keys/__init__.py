"""Recipe keys: honest fingerprints of values and of the code that a function reaches.

Knows Python objects, bytecode and installed distributions; knows nothing of tasks, graphs or stores.
Imports `hooke.base` only. What has no honest key raises; nothing is keyed by a constant or an address.
"""
