"""The embedded default: workers and gangs as processes of this machine.

It knows nothing of hosts. Imports `engines.worker` and what that imports.
"""
