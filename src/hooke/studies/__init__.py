"""Studies drive experiments: they plan a sweep over N, take the measurements, and say when no more is to be had.

Knows what is to be measured, the engine's protocol and the laws of scaling; knows nothing of hooke.toml, of places by
name or of the command line. What was measured goes to a journal, and is read from there. Imports every floor below.
"""
