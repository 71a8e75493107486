"""A model in a process of its own, beside the replica that has the connections: what crashes or keeps the interpreter there harms it alone.

`model` is what the dispatch talks to; `running` starts one process, hears it and sees it end; `child` is that process; `wire` is what
goes between them. Pickles go between the two, over a socket that nobody else has.
Knows nothing of requests, routes and the batcher. Imports `serving`'s work, methods and problems, and what `supervision` knows of ends.
"""
