"""`hooke runs --metric` and `hooke compare`, each a real process on a project of real runs."""

import json

import pytest
from tests.cli.conftest import Desk

pytestmark = pytest.mark.needs("processes")

JOB = """
    import hooke
    from hooke import pipeline, task


    @task
    def fit(depth: int, kind: str) -> float:
        for epoch in range(3):
            hooke.log_metric("loss", 1 / depth / (epoch + 1))
        hooke.log_text("model of " + kind, "model.txt")
        return 1 / depth


    @pipeline
    def train(depth: int = 2, kind: str = "forest") -> float:
        hooke.set_tag("team", "us")
        return fit(depth, kind)
"""


@pytest.fixture
def trained(desk: Desk) -> Desk:
    desk.write("job.py", JOB)
    for depth in (2, 10, 4):
        assert desk.hooke("run", "job.py", "--depth", str(depth), "--on", "serial").code == 0
    return desk


@pytest.mark.long
def test_runs_by_their_metrics(trained):
    done = trained.hooke(
        "runs", "--metric", "loss", "--metric", "loss.max", "--sort", "loss", "--where", "params.depth>2"
    )
    assert done.code == 0, done.err
    head, *rows = done.out.splitlines()
    assert head.split()[5:] == ["loss", "loss.max", "parameters"]
    assert [row.split()[-1] for row in rows] == ["depth=10", "depth=4"]
    assert rows[1].split()[-3:-1] == ["0.0833333", "0.25"]
    assert "next: hooke compare train-" in done.err
    facts = json.loads(trained.hooke("runs", "--metric", "loss.max", "--json").out)
    assert sorted(each["metrics"]["loss.max"] for each in facts) == [0.1, 0.25, 0.5]
    assert trained.hooke("runs", "--where", "status=failed").err.startswith("none of 3 runs matches\n")
    none = trained.hooke("runs", "--where", "params.depth=5 or pipeline=trian")
    assert (none.code, none.out) == (0, "")
    assert "none of 3 runs matches: no run has params.depth=5: there are: 4, 10, 2\n" in none.err
    assert (
        "no run has pipeline=trian: did you mean train? there are: train"
        in trained.hooke("runs", "--where", "pipeline=trian").err
    )
    either = trained.hooke("runs", "--where", "params.depth in (2, 4) or status=lost", "--json")
    assert [each["parameters"]["depth"] for each in json.loads(either.out)] == ["4", "2"]


def test_typos_are_answered_with_names(trained):
    for typed, said in (
        (("--metric", "los"), "did you mean loss?"),
        (("--where", "params.dpth>1"), "did you mean depth?"),
        (("--where", "param.depth>1"), "did you mean params.depth?"),
        (("--sort", "-loss.mx"), "did you mean"),
        (("--where", "params.depth>1 and status=fnished"), "did you mean finished?"),
    ):
        done = trained.hooke("runs", *typed)
        assert done.code == 2, typed
        assert said in done.err, done.err


def test_a_damaged_run_is_left_out_and_said(trained):
    run = trained.last()
    (segment,) = (trained.project.runs.folder(run)).glob("track-driver*.journal")
    segment.write_bytes(b"not a journal")
    done = trained.hooke("runs", "--metric", "loss")
    assert done.code == 0
    assert f"left out, because it is unreadable: {run}" in done.err
    assert len(done.out.splitlines()) == 3


def test_runs_side_by_side(trained):
    runs = sorted(trained.project.runs.names())
    done = trained.hooke("compare", *runs[:2], "--html", "c.html", COLUMNS="80")
    assert done.code == 0, done.err
    assert {"parameters", "metrics", "durations", "equal"} <= set(done.out.splitlines())
    assert "artifacts (1): model.txt" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    page = (trained.folder / "c.html").read_text("utf-8")
    assert "Learning curves" in page
    facts = json.loads(trained.hooke("compare", *runs, "--json").out)
    assert facts["runs"] == runs
    assert sorted(facts["parameters"]["differ"]["depth"]) == ["10", "2", "4"]
    wrong = trained.hooke("compare", runs[0])
    assert (wrong.code, "give two or more runs" in wrong.err) == (2, True)
    wrong = trained.hooke("compare", *runs, "--html", "c.pdf")
    assert (wrong.code, "use a name that ends with .html" in wrong.err) == (2, True)
