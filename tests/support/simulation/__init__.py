"""Whole runs and histories of fleets in virtual time, each replayed from its seed, and the invariants that they must keep."""
