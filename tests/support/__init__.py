"""What only Hooke's own tests use: simulated histories, chaos, hosts that share nothing but TCP, a network proxy.

What makers of plug-ins use is in `hooke.testing`. Imports anything of `hooke`.
"""

import os
from pathlib import Path

__all__ = ["REPOSITORY", "environment"]

REPOSITORY = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """This process's environment, in which `python -m tests.support.x` is found from any folder."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
