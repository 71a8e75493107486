"""Where tasks run. Each engine fulfils `pipeline.engine.Engine`; `serial` is the reference, `local` the embedded default.

`worker/` runs attempts in processes of one machine, `remote/` keeps the books of attempts over several hosts, `dask/` and
`ray/` bring the hosts. An engine decides nothing about retries or order. It knows nothing of graphs and of other engines.
Imports `pipeline`, `tracking`, `store`, `keys`, `journal`, `processes` and `base`.
"""
