"""What `hooke ui` shows beside runs, a module for each subject: what its pages say, gathered from the project's parts.

The server, its gate and the templates are in `pages`. Imports whatever a command may.
"""
