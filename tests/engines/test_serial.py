from pathlib import Path

import pytest

from hooke.engines.serial import SerialEngine
from hooke.testing.engine_suite import ENGINE_CHECKS, EngineCheck, check_engine, name_of


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=name_of)
def test_the_serial_engine(check: EngineCheck, tmp_path: Path) -> None:
    check_engine(SerialEngine, tmp_path, only=check)


def test_what_a_task_flushes_reaches_a_stdout_that_buffers(tmp_path, monkeypatch):
    import io
    import sys

    from hooke.engines.serial import _copied
    from hooke.processes.exit_report import LogFile

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    with _copied(LogFile(tmp_path / "log")):
        print("a")
        assert raw.getvalue() == b""
        print("b", flush=True)
        assert raw.getvalue() == b"a\nb\n"
    assert (tmp_path / "log").read_text() == "a\nb\n"
