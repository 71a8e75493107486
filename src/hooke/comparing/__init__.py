"""`hooke.compare` and `hooke.runs`: lists and compares runs as tables, frames and figures.

It only reads journals: it knows nothing of engines and stores. Imports `running`, `charts` and every folder below.
"""
