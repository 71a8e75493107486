"""Registers models: `NAME FACTOR` on a line of stdin, `NAME:NUMBER` on stdout when its alias has moved. A process of its own, as trainings are."""

from __future__ import annotations

import sys

import hooke

for line in sys.stdin:
    name, factor = line.split()
    with hooke.start_run("chaos"):
        made = hooke.register({"factor": int(factor)}, name, alias="champion")
    sys.stdout.write(f"{made}\n")
    sys.stdout.flush()
