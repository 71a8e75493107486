"""Those who rent machines out, one file each, all alike: `processes` is the reference.

A provider knows its own service; it knows nothing of ledgers, caps, policies or runs. Imports `hooke.fleet` (the protocol) and the
floors below. Providers never import each other.
"""
