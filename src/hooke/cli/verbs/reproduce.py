"""`hooke reproduce`: repeat a run from its record, and compare the results."""

from __future__ import annotations

import json

import click

from hooke.cli.options import complete_run, in_project, json_option
from hooke.cli.screens import EXIT_FAILED
from hooke.project.folder import Project

__all__ = ["reproduce"]

EXIT_DIFFERENT = 3
EXIT_UNMET = 4


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.option("--verify", is_flag=True, help="Repeat the run in a store of its own, and compare each result.")
@click.option("--here", is_flag=True, help="Use the project's current code instead of the recorded tree.")
@click.option("--best-effort", is_flag=True, help="Repeat the run even if conditions differ.")
@click.option(
    "--rtol",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Relative tolerance for numbers.",
)
@click.option(
    "--atol",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Absolute tolerance for numbers.",
)
@click.option("--keep", is_flag=True, help="Keep the folder with the restored tree and the new results.")
@json_option
@in_project
def reproduce(*, run: str, rtol: float, atol: float, as_json: bool, project: Project, **asked: bool) -> int:
    """Check whether RUN (by default the last run) can be repeated; with --verify, repeat it and compare the results.

    The conditions are code, Python, library versions, data files, seed, thread counts and hardware. The code is the tree
    that the run recorded, restored outside the project. For a script with start_run(), the logged values are compared.

    Exit codes: 0 all conditions are met, or all results are equal or within the tolerance; 1 the repetition failed;
    2 wrong usage; 3 results differ; 4 a condition differs, so the run was not repeated.
    """
    from hooke.running.reproduce.reproduce import ReproduceOptions, reproduce_in
    from hooke.running.reproduce.result_comparison import Tolerance

    options = ReproduceOptions(tolerance=Tolerance(rtol=rtol, atol=atol), **asked)
    found = reproduce_in(project, project.runs.find(run), options)
    click.echo(json.dumps(found.facts(), indent=2) if as_json else str(found))
    if found.status == "checked":
        return EXIT_UNMET if found.unmet else 0
    return {"unmet": EXIT_UNMET, "different": EXIT_DIFFERENT, "failed": EXIT_FAILED}.get(found.status, 0)
