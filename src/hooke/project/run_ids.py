"""Names of runs."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime

__all__ = ["new_run_id"]


def new_run_id(pipeline: str, now: float) -> str:
    """`delays-20261125-004622-x7k2`: sorts by time within a pipeline, and is short enough to type a prefix of."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
    letters = string.ascii_lowercase + string.digits
    return f"{pipeline}-{moment}-{''.join(random.SystemRandom().choices(letters, k=4))}"
