"""What people look at: `hooke ui` and `hooke report`, runs in a browser and as one file; `hooke graph`, the picture of a pipeline.

`hooke ui --mlflow` opens MLflow's pages.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.base.files import write_atomic
from hooke.base.formats import format_bytes, without_password
from hooke.cli.drive import load_pipeline, user_code
from hooke.cli.options import complete_run, debug_option, in_project
from hooke.cli.parameters import Parameters
from hooke.journal.run_folders import RunsFolder
from hooke.processes.start import free_port
from hooke.project.folder import Project
from hooke.running.run import Run

__all__ = ["graph", "report", "ui"]


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE",
    default="run.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.",
)
@in_project
def report(*, run: str, file: Path, project: Project) -> int:
    """Write the page of RUN (by default the last run) as one HTML file of at most 2 MB: to open without a network, mail or print."""
    name = project.runs.find(run)
    _check_here(project.runs, name)
    written = Run(project, name).report(file)
    click.echo(f"wrote {written}: {format_bytes(written.stat().st_size)}", err=True)
    return 0


def _check_here(runs: RunsFolder, run: str) -> None:
    if runs.elsewhere(run) is not None:
        raise UsageError(f"the journal of run {run} is in a cluster", next=f"hooke show {run}")


# --- The pages.

PORT = 5180
MLFLOW_PORT = 5000
LIGHT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without its job runner for generative AI, MLflow's server has 2 processes with 0.5 GB instead of 10 with 1.6 GB."""


@click.command()
@click.option("--mlflow", is_flag=True, help="Open MLflow's pages instead.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help=f"0 takes a free one.  [default: {PORT}; MLflow's: {MLFLOW_PORT}]",
)
@in_project
def ui(*, mlflow: bool, port: int | None, project: Project) -> int:
    """Show the project's runs in a browser, until Ctrl-C: graph, tasks, timeline, failures, logs and artifacts, live.

    Runs that are ticked are compared. Beside them are its scaling laws, its plans, its services with their load, latencies and replicas,
    its searches, its models, its store and its fleets.

    Only this machine reaches the pages (127.0.0.1), and only with the token in the printed address. They change nothing.
    With --mlflow, and runs shipped to a server (MLFLOW_TRACKING_URI, or an http:// `uri` in hooke.toml), print its address.
    """
    if mlflow:
        _mlflow(project, MLFLOW_PORT if port is None else port or free_port())
        return 0
    missing = [name for name in ("jinja2", "starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"hooke ui needs {' and '.join(missing)}",
            fix=f"{install_command('ui')}; without it: hooke runs, hooke show",
        )
    return _serve(project, PORT if port is None else port)


def _serve(project: Project, port: int) -> int:
    from hooke.cli.ui.subjects import subjects_of
    from hooke.pages.run_index import RunIndex
    from hooke.pages.server import PageServer, serve_pages
    from hooke.running.run_page import MOST_BYTES, RunCosts, cost_text, task_causes
    from hooke.serving.auth import ensure_token

    project.create()
    token = ensure_token(project.data / "ui-token")

    def beside(run: str, ended: bool) -> tuple[str, dict[str, str]]:  # noqa: FBT001 - the server's call
        return cost_text(project, run, most_bytes=MOST_BYTES), task_causes(project, run) if ended else {}

    def ready(port: int) -> None:
        click.echo(f"runs of {project.root}: http://127.0.0.1:{port}/?token={token}")
        click.echo("stop with Ctrl-C", err=True)

    server = PageServer(
        RunIndex(project.runs),
        name=project.root.name,
        beside=beside,
        costs=RunCosts(project),
        subjects=subjects_of(project),
    )
    try:
        serve_pages(server, port=port, token=token, ready=ready)
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used", why=error.strerror or str(error), fix="hooke ui --port 0"
        ) from error
    return 0


def _mlflow(project: Project, port: int) -> None:
    if find_spec("mlflow") is None:
        raise MissingExtra(
            "hooke ui --mlflow opens the pages of MLflow, which is not installed",
            fix=f"{install_command('mlflow')}; without it: hooke ui, hooke runs, hooke show, hooke compare",
        )
    options = project.settings.tracking.options.get("mlflow", {})
    default = f"sqlite:///{project.root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or options.get("uri") or default
    if uri.startswith(("http://", "https://")):
        click.echo(f"runs are shipped to a server: {without_password(uri)}")
        return
    click.echo(
        f"MLflow on {without_password(uri)}: http://127.0.0.1:{port} in a few seconds; stop with Ctrl-C",
        err=True,
    )
    sys.stderr.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    # In the project's folder, because MLflow's default artifact path is relative.
    os.chdir(project.root)
    # Replaces this process, so a signal to it ends the server.
    os.execve(sys.executable, command, os.environ | LIGHT)  # noqa: S606 - deliberately without a shell


# --- The picture of a pipeline.


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("target", metavar="FILE.py[:PIPELINE]")
@click.option(
    "--svg",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the picture to FILE, as SVG.",
)
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart, for Markdown.")
@debug_option
@click.argument("parameters", nargs=-1, metavar="[--PARAMETER VALUE ...]", type=click.UNPROCESSED)
def graph(*, target: str, file: Path | None, mermaid: bool, parameters: tuple[str, ...]) -> int:
    """Draw the graph of the pipeline in FILE.py: its calls, maps with their items, and nested pipelines.

    The pipeline's body runs, but no task. The text has a line for each call, with the calls whose results it takes. Of more than
    60 calls, those of one task are one. The pipeline's parameters are options, as for `hooke run`.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise UsageError(f"--svg {file}: its folder does not exist", fix=f"mkdir -p {file.parent}")
    with contextlib.redirect_stdout(sys.stderr):
        pipeline, _ = load_pipeline(target)
        args, params = Parameters(pipeline, target=target, verb="graph").parse(parameters)
        drawn = user_code(lambda: pipeline.graph(*args, **params), pipeline)
    if file is not None:
        write_atomic(file, drawn.svg().encode())
        click.echo(f"wrote {file}: {drawn.summary}", err=True)
    if mermaid:
        click.echo(drawn.mermaid(), nl=False)
    elif file is None:
        click.echo(drawn.text())
    return 0
