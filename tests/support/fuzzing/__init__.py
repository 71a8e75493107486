"""A fuzzer with plain Python as the oracle: random programs, and what happens to them between runs.

`choices` draws and shrinks, `programs` are the programs with what each call depends on, `play` runs them beside plain Python.
"""
