"""Runs side by side: what each was given and what it logged, found by name, filtered, sorted, tabled and drawn."""
