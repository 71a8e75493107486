"""Several replicas of a service as processes of this machine, and their front, kept as `serving.supervision` decides.

`supervisor` is the loop; `child` and `keeper` are the processes that it starts, each with a `control` channel under a lease;
`service_folder` is where they are found again. Knows nothing of what is decided, nor of how things look on a terminal.
"""
