"""What every floor above stands on: errors, units, the clock, files, references, the registry.

Knows nothing of tasks, runs or backends. Imports the standard library and msgspec only.
"""
