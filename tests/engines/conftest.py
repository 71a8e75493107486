import pytest
from tests.engines.faults import faults  # noqa: F401 - a fixture
from tests.project.conftest import workshop  # noqa: F401 - as that

pytest.register_assert_rewrite(
    "hooke.testing.engine_suite",
    "hooke.testing.engine_bench",
    "hooke.testing.engine_suite",
    "hooke.testing.engine_suite",
)
