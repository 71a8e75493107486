"""What user code logs while it runs: metrics, parameters, tags, files; into the journal, and nowhere else.

Every process has a segment of its own, and a call returns when the system has the bytes: it waits for no network, no
server and no other process. A call never raises: trouble is counted, said once, and kept where a full disk still has
room for it. Knows the journal; knows no tracker (MLflow, Comet): those are `hooke.sinks`, which read the journal.
Imports `journal` and `base`.
"""
