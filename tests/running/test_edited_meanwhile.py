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


@pytest.mark.needs("processes")
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


LAZY = """
    import importlib
    import os
    from pathlib import Path

    from hooke import pipeline, task

    HERE = Path(__file__).parent

    @task(retries=1)
    def times(x: int, name: str) -> int:
        if not (HERE / "edited").exists():
            (HERE / "edited").touch()
            file = HERE / "edited_tools/deep.py"
            file.write_text(file.read_text().replace("return 2", "return 3"))
            os._exit(3)
        {body}

    @pipeline
    def job():
        return times(7, "deep")
"""
DEEP = """\
def factor() -> int:
    return 2
"""
WAYS = {
    "in the body": "from edited_tools.deep import factor; return x * factor()",
    "by a constant name": 'return x * importlib.import_module("edited_tools.deep").factor()',
    "by a computed name": 'return x * importlib.import_module(f"edited_tools.{name}").factor()',
    "through another": "import edited_tools; return x * edited_tools.factor()",
    "by code with a computed name": 'import edited_tools; return x * getattr(edited_tools, "fac" + "tor")()',
}


@pytest.fixture
def tools(workshop, monkeypatch):
    import sys

    monkeypatch.syspath_prepend(str(workshop.folder))
    (workshop.folder / "edited_tools").mkdir()
    (workshop.folder / "edited_tools/__init__.py").write_text(
        "def factor():\n    from . import deep\n    return deep.factor()\n"
    )
    yield workshop
    for name in ("edited_tools", "edited_tools.deep"):
        sys.modules.pop(name, None)


@pytest.mark.needs("processes")
@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_only_a_task_imports_is_the_one_of_the_runs_beginning(tools, way):
    (tools.folder / "edited_tools/deep.py").write_text(DEEP)
    tools.write(textwrap.dedent(LAZY.format(body=WAYS[way])))
    assert tools.run(on="local:1").result() == 14
    assert "return 3" in (tools.folder / "edited_tools/deep.py").read_text()
