"""Faults planted in Hooke, one at a time, to count how many of them its tests find.

`operators` edits a source, `places` picks faults by seed, `importers` picks the tests to try first, `trials` runs them on a copy of the
repository, `witnesses` has what people wrote about survivors, and `record` sums up. It is a soak target, and no part of CI.
"""
