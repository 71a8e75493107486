"""`hooke graph`: text, SVG and Mermaid, in one process each."""

from pathlib import Path

import pytest


@pytest.mark.needs("cpu")
def test_it_draws_a_pipeline(desk):
    desk.write(
        "job.py",
        """
        from hooke import pipeline, task

        @task
        def double(x: int) -> int:
            raise AssertionError("no task runs")

        @pipeline
        def job(n: int):
            print("traced")
            return double.map(range(n))
    """,
    )
    done = desk.hooke("graph", "job.py", "--n", "3", "--mermaid", "--svg", "job.svg")
    assert done.code == 0
    assert done.out.splitlines()[:2] == ["flowchart TD", '    t0(["double<br>map of 3"])']
    assert "wrote job.svg: 1 task, 1 call" in done.err
    assert Path(desk.folder, "job.svg").read_text("utf-8").startswith("<svg ")
    assert desk.hooke("graph", "job.py", "--n", "3").out == "job: 1 task, 1 call\n  double  map of 3\n"
    refused = desk.hooke("graph", "job.py", "--n", "3", "--svg", "nowhere/job.svg")
    assert refused.code == 2
    assert "mkdir -p nowhere" in refused.err
