"""The foundation of all other folders: errors, units, text for values, tables, files, the clock, plug-ins, user code.

It knows nothing of runs, tasks or services. Imports no other folder of Hooke.
"""
