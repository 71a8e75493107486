"""The Ray backend: a Ray that Hooke starts, or any address, behind a bridge process that alone imports Ray.

It knows nothing of Dask. Imports `engines.remote` and what that imports.
"""
