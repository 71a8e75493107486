"""`hooke.toml`, the project's folder, the tables of backends, and the opening of a run: the only folder that reads settings.

It builds engines and stores by name, and begins the journal of a run, but runs nothing: it knows nothing of results.
Imports `pipeline`, `certificates` and below.
"""
