"""`hooke.toml`, the project's folder, and the tables of backends: the only folder that reads settings and the environment.

It builds engines and stores by name, and runs nothing itself: it knows nothing of runs' results. Imports `pipeline`,
`certificates` and below.
"""
