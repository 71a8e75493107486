"""Where everything meets: `hooke.toml`, the folder of a project, and the public facades (`run`, `Run`).

The only package that builds backends or reads the environment. Knows every floor below; knows nothing of
how a terminal or a page shows it. Imports every floor below; `cli` and `testing` import it.
"""
