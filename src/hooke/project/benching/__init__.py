"""Load tests: levels of load one after the other, on a URL or on a service that is started for it, and what they tell.

Knows commands of ours that it starts (`hooke serve`) and what a service journals; nothing of click. The load is made by `load`.
"""
