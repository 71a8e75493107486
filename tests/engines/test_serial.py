from pathlib import Path

import pytest

from hooke.engines.serial import SerialEngine
from hooke.testing.engine_suite import ENGINE_CHECKS, EngineCheck, check_engine, name_of


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=name_of)
def test_the_serial_engine(check: EngineCheck, tmp_path: Path) -> None:
    check_engine(SerialEngine, tmp_path, only=check)
