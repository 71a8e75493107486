"""Where everything meets: `hooke.toml`, the folder of a project, and the public facades (`run`, `Run`).

The only package that builds backends or reads the environment, and the one that shows a run while it goes on
(`progress`). Knows every floor below; knows nothing of the command line. Imports every floor below, and rich where
a table is drawn; `cli` and `testing` import it.
"""
