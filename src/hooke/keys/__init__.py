"""Recipe keys: honest fingerprints of values and of the code that a function reaches.

Knows Python objects, bytecode and installed distributions; knows nothing of tasks, graphs or stores.
Imports `hooke.base` only. What has no honest key raises; nothing is keyed by a constant or an address.
"""

from hooke.keys.code import fingerprint_code
from hooke.keys.combine import Key, combine
from hooke.keys.explain import Change, explain
from hooke.keys.file import File
from hooke.keys.parts import CodePart, CodePrint
from hooke.keys.printer import ValuePrinter
from hooke.keys.value import fingerprint_items, fingerprint_value

__all__ = [
    "Change",
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
