"""`hooke demo`: an example on real data, command by command.

Each step is a fresh process that a user could start. May import `cli` and every folder below it.
"""
