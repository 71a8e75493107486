"""`hooke ui --mlflow`: MLflow's web pages for the project's runs."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import click

from hooke.base.errors import MissingExtra
from hooke.cli.options import in_project
from hooke.project.folder import Project

__all__ = ["ui"]

LIGHT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without its job runner for generative AI, MLflow's server has 2 processes with 0.5 GB instead of 10 with 1.6 GB."""


@click.command()
@click.option("--mlflow", is_flag=True, required=True, help="Open MLflow's pages, currently the only ones.")
@click.option("--port", default=5000, show_default=True, metavar="PORT", type=click.IntRange(1, 65535))
@in_project
def ui(*, mlflow: bool, port: int, project: Project) -> None:  # noqa: ARG001 - required, so always true
    """Serve MLflow's pages on this machine only (127.0.0.1), until Ctrl-C.

    If runs are shipped to a server (MLFLOW_TRACKING_URI, or an http:// `uri` in hooke.toml), print its address instead.
    """
    if find_spec("mlflow") is None:
        raise MissingExtra(
            "the pages of MLflow need mlflow, which is not installed", fix='pip install "hooke[mlflow]"'
        )
    options = project.settings.tracking.options.get("mlflow", {})
    default = f"sqlite:///{project.root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or options.get("uri") or default
    if uri.startswith(("http://", "https://")):
        click.echo(f"runs are shipped to a server: {uri}")
        return
    click.echo(f"MLflow on {uri}: http://127.0.0.1:{port} in a few seconds; stop with Ctrl-C", err=True)
    sys.stderr.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    # In the project's folder, because MLflow's default artifact path is relative.
    os.chdir(project.root)
    # Replaces this process, so a signal to it ends the server.
    os.execve(sys.executable, command, os.environ | LIGHT)  # noqa: S606 - deliberately without a shell
