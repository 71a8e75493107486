"""Where tasks run. Each engine fulfils `pipeline.engine.Engine`; `serial` is the reference, `local` the embedded default.

`worker/` runs attempts in processes of one machine, `remote/` tracks attempts on several hosts, `dask/` and `ray/` provide
the hosts, and the gang coordinator serves all of them but `serial`. An engine decides nothing about retries or order.
It knows nothing of graphs and of other engines.
Imports `pipeline`, `tracking`, `certificates`, `journal`, `keys`, `kubernetes`, `processes`, `store` and `base`.
"""
