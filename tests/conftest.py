import os
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite(
    "hooke.testing.engine_suite", "hooke.testing.engine_bench", "hooke.testing.short_call_suite"
)

pytest_plugins = [
    "tests.fixtures.leftovers",
    "tests.fixtures.requirements",
    "tests.fixtures.sessions",
    "tests.fixtures.shop",
    "tests.fixtures.small_disk",
    "tests.fixtures.sockets",
    "tests.fixtures.times",
    "tests.fixtures.workshop",
]

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A run that logs would start a process that ships it, and outlive its test; tests of that ask for it themselves.
os.environ["HOOKE_SINKS"] = "none"
os.environ["HOOKE_PRICES"] = os.devnull  # the shipped price lists, whatever lists the user has

# Else each of the thousands of processes that tests start compiles Hooke anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.pop(
    "PYTHONUNBUFFERED", None
)  # users do not set it, and what is left in a buffer at the end matters

# Else threads of OpenMP that wait for one another spin: where each core has several processes, a fit of seconds takes minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell's background job, or `nohup`, begins with these ignored, which every process of the tests would inherit.
for each, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(each) is signal.SIG_IGN:
        signal.signal(each, handler)
