"""`hooke serve --dev`: a new process for each version of the files; the old one answers until the new one is ready.

`handover` (pure) decides, `reloader` performs. It knows nothing of replicas and proxies. Imports every folder below `services`.
"""
