from tests.engines.local.faults import faults  # noqa: F401 - a fixture
