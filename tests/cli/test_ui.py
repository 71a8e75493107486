"""`hooke ui`: a real MLflow server, on this machine alone."""

import contextlib
import os
import signal
import socket
import time
import urllib.request

import psutil
import pytest

pytestmark = pytest.mark.needs("processes")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_mlflow_is_served_in_its_light_form(desk):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = desk.start("ui", "--mlflow", "--port", str(port))
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.2)
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) <= 4
        assert (desk.folder / "mlflow.db").exists()
        process.terminate()
        process.wait(timeout=30)
        _, left = psutil.wait_procs(below, timeout=30)
        assert not left
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_where_there_is_a_server_its_address_is_said(desk):
    desk.write("hooke.toml", '[tracking.mlflow]\nuri = "http://127.0.0.1:1234"\n')
    for words in (("ui", "--mlflow"),):
        assert desk.hooke(*words).out == "runs are shipped to a server: http://127.0.0.1:1234\n"


def test_without_mlflow_it_says_what_else_there_is(desk):
    desk.write(
        "hidden/sitecustomize.py",
        """
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "mlflow" else found(name, *more)
    """,
    )
    done = desk.hooke("ui", "--mlflow", PYTHONPATH=str(desk.folder / "hidden"))
    assert done.code == 2
    assert "hooke ui --mlflow opens the pages of MLflow, which is not installed" in done.err
    assert "hooke show" in done.err


@pytest.mark.needs("cpu")
def test_without_the_extra_both_say_how_to_get_it(desk):
    desk.write(
        "hidden/sitecustomize.py",
        """
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "jinja2" else found(name, *more)
    """,
    )
    desk.write("job.py", "from hooke import pipeline\n\n@pipeline\ndef job():\n    return 1\n")
    assert desk.hooke("run", "job.py").code == 0
    for verb in ("ui", "report"):
        done = desk.hooke(verb, PYTHONPATH=str(desk.folder / "hidden"))
        assert done.code == 2
        assert "jinja2" in done.err.lower()
        assert "hooke-ml[ui]" in done.err


def test_a_port_that_is_taken_is_named(desk):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = desk.hooke("ui", "--port", str(taken.getsockname()[1]))
    assert done.code == 2
    assert "hooke ui --port 0" in done.err
