"""What every other folder stands on: errors, units, short text for values, files, the clock, plug-ins, user code.

It knows nothing of runs, tasks or services. Imports the standard library only.
"""
