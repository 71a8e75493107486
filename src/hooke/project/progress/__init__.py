"""How a run shows itself while it goes on: a live table, lines, or a table in a notebook; chosen in `choice`.

Everything shown is read from the journal's events. What is shown can end (nobody reads on), and the run goes on.
rich is imported by `table` alone, and only when a table is drawn.
"""
