"""Ten minutes of mishaps: a service under steady load whose replicas, supervisor and front are scaled, killed and hung in turn.

`served` starts the real `hooke serve`; `blows` are what is done to it; `toll` is what the requests tell of that; `watch` looks at ports
and memory meanwhile; `page` is the Markdown. Imports the library, and the processes of its tests.
"""
