"""`hooke ui --mlflow`: MLflow's web pages for the project's runs."""

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
"""Without its job runner for generative AI, MLflow's server has 2 processes with 0.5 GB instead of 10 with 1.6 GB."""


@click.command()
@click.option("--mlflow", is_flag=True, required=True, help="Open MLflow's pages, currently the only ones.")
@click.option("--port", default=5000, show_default=True, metavar="PORT", type=click.IntRange(1, 65535))
@in_project
@click.pass_obj
def ui(session: CommandSession, *, mlflow: bool, port: int, project: Path | None) -> None:  # noqa: ARG001 - required, so always true
    """Serve MLflow's pages on this machine only (127.0.0.1), until Ctrl-C.

    If runs are shipped to a server (MLFLOW_TRACKING_URI, or an http:// `uri` in hooke.toml), print its address instead.
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
    click.echo(f"MLflow on {uri}: http://127.0.0.1:{port} in a few seconds; stop with Ctrl-C", err=True)
    sys.stderr.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    # In the project's folder, because MLflow's default artifact path is relative.
    os.chdir(where.root)
    # Replaces this process, so a signal to it ends the server.
    os.execve(sys.executable, command, os.environ | LIGHT)  # noqa: S606 - deliberately without a shell
