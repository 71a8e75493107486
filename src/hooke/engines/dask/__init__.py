"""The Dask backend: a cluster that Hooke starts, or any scheduler, cluster or client; and pods of Kubernetes as its workers.

It knows nothing of Ray. Dask is imported here and in its provider only. Imports `engines.remote` and what that imports,
`kubernetes` and `certificates`.
"""
