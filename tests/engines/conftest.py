import pytest

pytest.register_assert_rewrite(
    "hooke.testing.engine_suite", "hooke.testing.engine_bench", "hooke.testing.engine_runs"
)
