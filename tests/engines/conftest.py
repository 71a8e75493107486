import pytest
from tests.engines.local.faults import faults  # noqa: F401 - a fixture

pytest.register_assert_rewrite(
    "hooke.testing.engine_suite",
    "hooke.testing.engine_bench",
    "hooke.testing.engine_suite",
    "hooke.testing.engine_suite",
)
