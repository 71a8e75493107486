"""Plans: what a pipeline would take on this machine and on others, from price lists and from what its journals tell.

`plan` asks and answers; `work` says what is left to do, `timings` and `laws` what earlier runs and studies tell of it,
`machines` where it could run; `record` keeps plans and sets them against the runs that followed. The arithmetic is
`hooke.scaling`'s.
"""
