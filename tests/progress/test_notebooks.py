"""What a notebook keeps: one final table, rows as tables and frames, the user's own line of a failure; in HTML and Markdown, too."""

import ast
import re
import subprocess
import sys
import textwrap
import time

import pytest

import hooke

pytestmark = pytest.mark.needs("processes")

JOB = """
    import time
    from pathlib import Path

    from hooke import log_metric, log_text, pipeline, task


    @task(cache=False)
    def wait(x: int) -> int:
        print("waited for", x)
        log_metric("x", x, step=x)
        while not Path("go").exists():
            time.sleep(0.01)
        return x


    @pipeline
    def elsewhere(n: int = 2) -> list[int]:
        return wait.map(range(n))
"""
CELLS = {
    "declare": """
        import time
        from hooke import log_metric, log_text, pipeline, run, runs, task
        import hooke

        @task
        def half(x: int) -> float:
            print(f"<b>half of {x}</b>")
            log_metric("loss", x / 2, step=x)
            log_text("<i>half</i>", "half.txt")
            time.sleep(0.3)
            return x / 2

        def deeper(x):
            return 1 / x

        @task
        def inverse(x: int) -> float:
            return deeper(x)

        @pipeline
        def halves(n: int = 4, note: str = "<script>x</script>") -> list[float]:
            return half.map(range(n))

        @pipeline
        def inverses(n: int = 3) -> list[float]:
            return inverse.map(range(n))
    """,
    "run": "r = run(halves, on='local:1')\nr",
    "again": "r",
    "graph": "halves.graph()",
    "logs": "r.logs()",
    "artifacts": "r.artifacts",
    "params": "r.params",
    "metrics": "r.metrics",
    "tasks": "r.tasks()",
    "points": "r.logged().metric('loss').to_frame('polars')['value'].to_list(), list(r.logs().to_frame()['text'])",
    "fail": "run(inverses, on='local:1', progress='none')",
    "failures": "runs('inverses')[0].failures",
    "trace": """
        @pipeline
        def wrong(n: int = 1) -> int:
            return 1 if half(n) else 2
        run(wrong)
    """,
    "follow": """
        import pathlib, subprocess, sys
        driver = subprocess.Popen([sys.executable, "-m", "hooke", "run", "job.py", "--on", "local:1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not runs("elsewhere"):
            time.sleep(0.05)
        pathlib.Path("go").touch()
        hooke.follow()
    """,
    "ended": "driver.wait(), hooke.follow(runs('elsewhere')[0].id).status",
    "interrupt": """
        import _thread, inspect, threading
        pathlib.Path("go").unlink()
        driver = subprocess.Popen([sys.executable, "-m", "hooke", "run", "job.py", "--on", "local:1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while runs("elsewhere")[0].status != "running":
            time.sleep(0.05)

        def interrupt(thread):
            # Once the call has read all that there is, and waits for more.
            while "sleep" not in (inspect.getframeinfo(sys._current_frames()[thread]).code_context or [""])[0]:
                time.sleep(0.01)
            _thread.interrupt_main()

        threading.Thread(target=interrupt, args=(threading.get_ident(),)).start()
        hooke.follow()
    """,
    "on": "before = runs('elsewhere')[0].status; pathlib.Path('go').touch(); before, hooke.follow(progress='none').status, driver.wait()",
    "failed": "hooke.follow(runs('inverses')[0].id)",
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """All cells, run by `jupyter nbconvert --execute`."""
    import nbformat

    folder = tmp_path_factory.mktemp("notebook")
    (folder / "job.py").write_text(textwrap.dedent(JOB), "utf-8")
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(source).strip()) for source in CELLS.values()]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "in.ipynb")
    command = "-m nbconvert --execute --allow-errors --to notebook --output out.ipynb in.ipynb"
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "out.ipynb", as_version=4)


def outputs(notebook, name):
    return notebook.cells[list(CELLS).index(name)].outputs


def value(notebook, name):
    (output,) = [each for each in outputs(notebook, name) if each.output_type == "execute_result"]
    return output.data


def error(notebook, name):
    (output,) = [each for each in outputs(notebook, name) if each.output_type == "error"]
    return output


@pytest.mark.long
def test_no_other_cell_failed(notebook):
    failed = {
        name: each.evalue for name in CELLS for each in outputs(notebook, name) if each.output_type == "error"
    }
    assert failed.keys() == {"fail", "trace", "interrupt"}, failed


@pytest.mark.parametrize("exporter", ["HTMLExporter", "MarkdownExporter"])
def test_an_exported_notebook_has_each_table_once(notebook, exporter):
    import nbconvert  # it takes seconds

    body, _ = getattr(nbconvert, exporter)().from_notebook_node(notebook)
    assert body.count("<b>halves-") == 2, "the progress, and the value of the next cell"
    assert body.count(">wait</td>") == 3, "followed three times"
    assert "running" not in re.findall(r'halves-\S+</b> <b style="color:#\w+">(\w+)', body)
    shown = body.partition("<b>halves-")[2]  # before it, Markdown has the cell with these words as it is
    assert "<script>x</script>" not in shown


def test_a_run_as_the_value_of_its_own_cell_is_not_there_twice(notebook):
    table, run = outputs(notebook, "run")
    assert table.output_type == "display_data"
    assert "finished</b>" in table.data["text/html"]
    assert ">half</td>" in table.data["text/html"]
    assert ">loss</td>" in run.data["text/html"]
    assert ">half</td>" not in run.data["text/html"]
    assert ">half</td>" in value(notebook, "again")["text/html"]


def test_a_graph_shows_itself(notebook):
    assert "<svg" in value(notebook, "graph")["image/svg+xml"]


@pytest.mark.parametrize(
    ("name", "plain", "shown"),
    [
        ("logs", "<4 log lines>", "&lt;b&gt;half of 3&lt;/b&gt;"),
        ("artifacts", "<4 artifacts: half.txt, half.txt, half.txt and 1 more>", ">half.txt<"),
        ("params", None, "&lt;script&gt;x&lt;/script&gt;"),
        ("metrics", None, ">loss</td>"),
        ("tasks", "<1 task: half>", ">done</td>"),
        (
            "failures",
            "<1 failure: inverse(x=0) failed: ZeroDivisionError: division by zero>",
            ">Cell In[1]:14: return 1 / x<",
        ),
    ],
)
def test_what_a_run_has_shows_itself_as_a_table(notebook, name, plain, shown):
    data = value(notebook, name)
    assert shown in data["text/html"]
    assert plain in (None, data["text/plain"])


def test_frames_are_of_either_library(notebook):
    losses, texts = ast.literal_eval(value(notebook, "points")["text/plain"])
    assert losses == [0.0, 0.5, 1.0, 1.5]
    assert texts == [f"<b>half of {x}</b>" for x in range(4)]


def test_a_failure_shows_the_lines_of_the_cells(notebook):
    shown = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error(notebook, "fail").traceback))
    assert shown.startswith("Cell In[11], line 1\n    run(inverses, on='local:1', progress='none')\n")
    assert "Cell In[1], line 18, in inverse\n          return deeper(x)" in shown
    assert "Cell In[1], line 14, in deeper\n          return 1 / x" in shown
    assert "ipykernel" not in shown
    assert "running/run.py" not in shown


def test_an_untraceable_pipeline_shows_its_line(notebook):
    shown = "\n".join(error(notebook, "trace").traceback)
    assert "Cell In[13], line 3, in wrong\n    return 1 if half(n) else 2" in shown
    assert "where: Cell In[13]:3: return 1 if half(n) else 2" in shown
    assert "ipykernel" not in shown


def test_a_run_of_another_process_is_followed_in_one_table(notebook):
    table, run = outputs(notebook, "follow")
    assert "finished</b>" in table.data["text/html"]
    assert ">wait</td>" in table.data["text/html"]
    assert ">x</td>" in run.data["text/html"]
    assert value(notebook, "ended")["text/plain"] == "(0, 'finished')"


def test_a_followed_run_that_failed_shows_its_error_below_its_table(notebook):
    table, run = outputs(notebook, "failed")
    assert ">inverse</td>" in table.data["text/html"]
    assert "ZeroDivisionError: division by zero" in run.data["text/html"]
    assert ">inverse</td>" not in run.data["text/html"]


def test_an_interrupt_ends_the_following_and_not_the_run(notebook):
    table, _ = outputs(notebook, "interrupt")
    assert "running</b>" in table.data["text/html"]
    assert "goes on" in error(notebook, "interrupt").evalue
    assert value(notebook, "on")["text/plain"] == "('running', 'finished', 0)"


def test_a_followed_run_whose_driver_dies_is_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(textwrap.dedent(JOB), "utf-8")
    with open(tmp_path / "err", "w") as err:
        driver = subprocess.Popen(
            [sys.executable, "-m", "hooke", "run", "job.py", "--on", "serial"], stdout=err, stderr=err
        )
        found = hooke.runs(project=tmp_path)
        while not found or found[0].status != "running":
            assert driver.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.05)
            found = hooke.runs(project=tmp_path)
        driver.kill()
        driver.wait()
    assert found[0].follow().status == "lost"
