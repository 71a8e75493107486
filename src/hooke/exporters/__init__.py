"""Writes a pipeline as a file of another scheduler, which runs it without Hooke's control plane: a target each has a file.

`plan` turns a traced graph into steps (pure). `targets` has the table of targets, and refuses what one cannot express before
anything is written; `source` writes the Python that targets share. A target adds no meaning: what it writes runs the same
tasks on the same inputs, each by `hooke exec`, or, in the plain flavour, by the functions themselves.
`pod_settings` has what pods have in common, from a place in hooke.toml, where each task is a pod.
`schedules` writes what starts whole runs of Hooke at given times: for cron, systemd and Kubernetes (pure).
Knows nothing of engines, runs and journals. Imports `pipeline`, `project` and below.
"""
