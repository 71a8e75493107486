"""`hooke.compare` and `hooke.runs`: runs side by side, found by conditions, as tables, frames and figures.

It only reads journals: it knows nothing of engines and stores. Imports `running`, `charts` and every folder below.
"""
