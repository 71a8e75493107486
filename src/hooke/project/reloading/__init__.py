"""A service that is set up anew when its files change: one process answers at a time, and another takes over when it is ready.

`files` says what counts as a change and `handover` what follows from it (both pure); `watching` sees it, `parent` does it.
Knows nothing of how the processes that serve are made: the command line gives the command.
"""
