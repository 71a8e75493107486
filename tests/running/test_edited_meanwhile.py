"""A run carries its code: an edit while it runs changes the next run only."""

from __future__ import annotations

import textwrap

import pytest

from hooke.running.why import why

JOB = """
    import os
    from pathlib import Path

    from hooke import pipeline, task
    from edited_helper import factor

    HERE = Path(__file__).parent

    @task(retries=1)
    def times(x: int, how: str) -> int:
        if not (HERE / "edited").exists():
            (HERE / "edited").touch()
            source = (HERE / "edited_helper.py").read_text()
            (HERE / "edited_helper.py").write_text(source.replace("return 2", "return 3  # other"))
            if how == "die":
                os._exit(3)
            raise ValueError("once")
        return x * factor()

    @task(retries=1)
    def lines(x: int) -> str:
        import inspect
        return inspect.getsource(factor)

    @pipeline
    def job(how: str = "die"):
        return times(7, how), lines(times(7, how))
"""

HELPER = """
def factor() -> int:
    return 2
"""


@pytest.fixture
def shop(workshop, monkeypatch):
    import sys

    monkeypatch.syspath_prepend(str(workshop.folder))
    (workshop.folder / "edited_helper.py").write_text(HELPER)
    workshop.write(textwrap.dedent(JOB))
    yield workshop
    sys.modules.pop("edited_helper", None)


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["die", "raise"])
def test_an_edit_during_a_run_changes_the_next_run_only(shop, how):
    import sys

    value, source = shop.run(how=how, on="local:1").result()
    assert value == 14, "the code that the run was planned with"
    assert "return 2" in source and "other" not in source
    assert "return 3" in (shop.folder / "edited_helper.py").read_text()
    sys.modules.pop("edited_helper")
    shop.write(textwrap.dedent(JOB))
    again = shop.run(how=how, on="local:1")
    assert again.result()[0] == 21
    causes = [cause.text for each in why(shop.project.runs, again.id) for cause in each.causes]
    assert any("edited_helper.factor" in text for text in causes)
