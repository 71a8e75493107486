"""Airflow as it is installed for real: PostgreSQL, the API server, the DAG processor and the scheduler with LocalExecutor."""

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.needs import skip_without

LOOPBACK = "127.0.0.1"


class AirflowServer:
    """A client of the API server."""

    def __init__(self, port: int) -> None:
        self._base, self._token = f"http://{LOOPBACK}:{port}", ""

    def call(self, path: str, body=None):
        """The answer to a GET, or to a POST of `body`."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(
            urllib.request.Request(self._base + path, data, headers), timeout=60
        ) as answer:
            return json.load(answer)

    def knows(self, dags: set[str]) -> bool:
        """Whether it answers, and has read these DAGs."""
        try:
            self._token = self.call("/auth/token")["access_token"]
            return dags <= {each["dag_id"] for each in self.call("/api/v2/dags")["dags"]}
        except OSError:  # HTTP errors while it starts, and a port that nobody listens on
            return False

    def start(self, dag: str, conf: dict) -> str:
        """Start a run; returns its path."""
        run = self.call(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        return f"/api/v2/dags/{dag}/dagRuns/{run['dag_run_id']}"

    def ended(self, run: str) -> str:
        """Its state, once it has ended."""
        await_until(lambda: self.call(run)["state"] in ("success", "failed"), what=run)
        return self.call(run)["state"]


def await_until(holds, *, what: str, within_s: float = 300.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"{what} took {within_s:g} s"
        time.sleep(0.3)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A server of Debian's PostgreSQL on a socket, with a database for Airflow; gives its address."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found or os.geteuid() != 0:
        skip_without("postgresql")
    programs, user = found[-1].parent, pwd.getpwnam("postgres")
    asks = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
    # Folders of pytest are root's alone.
    with tempfile.TemporaryDirectory(prefix="hooke-postgres-") as made, tempfile.TemporaryFile("w+") as log:
        folder = Path(made)
        os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        initdb = [programs / "initdb", "-D", data, "-U", "airflow", "--auth=trust", "--no-sync"]
        done = subprocess.run(initdb, capture_output=True, text=True, check=False, **asks)
        assert done.returncode == 0, done.stderr
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
            stdout=log,
            stderr=log,
            **asks,
        )
        create = [programs / "createdb", "-h", folder, "-U", "airflow", "airflow"]
        try:
            await_until(
                lambda: subprocess.run(create, stderr=log, check=False).returncode == 0, what="PostgreSQL"
            )
            yield f"postgresql+psycopg2://airflow@/airflow?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


@contextlib.contextmanager
def airflow_server(
    python: Path, settings: dict[str, str], folder: Path, dags: set[str]
) -> Iterator[AirflowServer]:
    """Start it, and wait until it has read these DAGs. `settings` are the environment of Airflow's commands."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
    ours = {
        "AIRFLOW__API_AUTH__JWT_SECRET": "j" * 64,
        "AIRFLOW__API__SECRET_KEY": "k" * 64,
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    }
    commands = (
        ("api-server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        ("dag-processor",),
        ("scheduler", "--skip-serve-logs"),
    )
    with contextlib.ExitStack() as open_things:
        for command in commands:
            log = open_things.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(
                [python, "-m", "airflow", *command],
                env=settings | ours,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            open_things.callback(_end, process)
        server = AirflowServer(port)
        await_until(lambda: server.knows(dags), what="Airflow")
        yield server


def _end(process: subprocess.Popen) -> None:
    """End a component with all that it started, which is in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(30)
