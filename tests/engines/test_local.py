from pathlib import Path

import pytest

from hooke.engines.local import LocalEngine
from hooke.testing.engine_suite import ENGINE_CHECKS, EngineCheck, check_engine, name_of

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=name_of)
def test_the_local_engine(check: EngineCheck, tmp_path: Path) -> None:
    check_engine(LocalEngine, tmp_path, only=check)
