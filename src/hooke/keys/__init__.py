"""Recipe keys: fingerprints of values and of the code that a function reaches.

Knows Python objects, bytecode and installed distributions; knows nothing of tasks, graphs or stores. Imports
`hooke.base` only. A value without a reliable key raises; no key is a constant or an address.
"""

from hooke.keys.file import File
from hooke.keys.fingerprint import fingerprint_code, fingerprint_items, fingerprint_value
from hooke.keys.fingerprint_parts import CodeChange, CodePart, CodePrint, Key, combine, explain
from hooke.keys.value_walk import ValuePrinter

__all__ = [
    "CodeChange",
    "CodePart",
    "CodePrint",
    "File",
    "Key",
    "ValuePrinter",
    "combine",
    "explain",
    "fingerprint_code",
    "fingerprint_items",
    "fingerprint_value",
]
