"""What a service's code is, as a hash: whether what was measured of it was measured of this code."""

from __future__ import annotations

from hooke.base.errors import NotFingerprintable
from hooke.keys.code import fingerprint_code

__all__ = ["code_of"]


def code_of(made_by: type) -> str:
    """A hash of the class and all that it reaches; empty where there is no honest one."""
    try:
        return fingerprint_code(made_by).key
    except NotFingerprintable:
        return ""
