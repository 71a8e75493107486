"""`hooke ui --mlflow`: MLflow's own pages on what the project's runs logged."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from hooke.base.errors import MissingExtra
from hooke.cli.options import in_project, the_project
from hooke.cli.screens import CommandSession

__all__ = ["ui"]

LIGHT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without what runs jobs of generative models MLflow's server is 2 processes of 0.5 GB, and not 10 of 1.6 GB."""


@click.command()
@click.option("--mlflow", is_flag=True, required=True, help="MLflow's pages; the only ones there are so far.")
@click.option("--port", default=5000, show_default=True, metavar="PORT", type=click.IntRange(1, 65535))
@in_project
@click.pass_obj
def ui(session: CommandSession, *, mlflow: bool, port: int, project: Path | None) -> None:  # noqa: ARG001 - required, so always true
    """Serve pages on this machine alone (127.0.0.1), until Ctrl-C.

    They show the place that the project's runs are shipped to: with MLFLOW_TRACKING_URI, or an `uri` of http:// in
    hooke.toml, there is a server already, and its address is said instead.
    """
    where = the_project(session, project)
    if find_spec("mlflow") is None:
        raise MissingExtra(
            "the pages of MLflow need mlflow, which is not installed", fix='pip install "hooke[mlflow]"'
        )
    options = where.settings.tracking.options.get("mlflow", {})
    default = f"sqlite:///{where.root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or options.get("uri") or default
    if uri.startswith(("http://", "https://")):
        click.echo(f"runs are shipped to a server: {uri}")
        return
    click.echo(f"MLflow on {uri}: http://127.0.0.1:{port} in some seconds; Ctrl-C ends it", err=True)
    sys.stderr.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    # In the project's folder: MLflow's default place of artifacts is relative to it.
    os.chdir(where.root)
    # In place of this process: then a signal to it ends the server, and leaves nothing behind.
    os.execve(sys.executable, command, os.environ | LIGHT)  # noqa: S606 - no shell is meant
