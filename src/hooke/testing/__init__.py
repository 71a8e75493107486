"""Proof, as a product: seeded simulations of whole runs, and the suites that every engine and store must pass.

It drives the production classes through their protocols, with fakes only where the outside world would be;
plugins use it as this repository does. It knows nothing of commands and pages.
Imports every floor below. Nothing outside tests imports it.
"""
