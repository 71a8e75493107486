"""The places that a store can lie in, one file each, all alike; `folder` is the reference.

Each knows its own library and `hooke.store.backend`; none knows another, objects, or keys.
"""
