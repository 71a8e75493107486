"""The command `hooke`: its verbs, each imported when it is typed, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from hooke.base.errors import HookeError
from hooke.cli.groups import Commands
from hooke.cli.screens import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_STOPPED,
    CommandSession,
    bug_screen,
    error_screen,
    exit_code,
    machine_error,
)

__all__ = ["hooke", "run_command"]

VERBS = {
    "run": "Run a pipeline: hooke run FILE.py[:PIPELINE] [--PARAMETER VALUE ...]",
    "resume": "Go on with a run that was stopped, failed or killed.",
    "runs": "List the runs of a project.",
    "compare": "Show what differs between runs, side by side.",
    "show": "Show a run: its tasks, what failed and why.",
    "logs": "Print what the tasks of a run printed.",
    "curve": "Show how far a task scales, as a run or a study measured it.",
    "reproduce": "Make a run again from its record, and compare its results.",
    "debug": "Run one task again in this process, with its real inputs, under pdb.",
    "sync": "Bring what runs logged into the trackers, as far as it is not there yet.",
    "import": "Bring in runs of another tracker: hooke import neptune PATH",
    "models": "List registered models and their versions; say which to trust.",
    "serve": "Serve a class that answers requests: hooke serve FILE.py[:CLASS] [--with NAME=VALUE]",
    "bench": "Put a service under load, and find the rate that it can take.",
    "ui": "Serve MLflow's pages on what runs logged.",
    "fleet": "List, scale, drain and end machines, say why; have machines join by certificates.",
    "stop": "Stop a run cleanly, from another terminal.",
    "cache": "Look at stored results, explain them, make room.",
    "measure": "Measure how far a task or a pipeline scales, and whether it beats one plain thread.",
    "plan": "Predict time and money, here and on other machines; of a service: hooke plan service FILE.py",
    "advise": "Say which cpus and memory to declare for each task, from what earlier runs used.",
    "doctor": "Check what is installed and what works here.",
    "demo": "Run the main job on real data, cache and edit included.",
    "completion": "Print the completion script of a shell.",
}
"""Verb -> its line in `hooke --help`, which imports none of them."""
MADE_IN = {
    "demo": "hooke.cli.demo.demo:demo",
    "import": "hooke.cli.verbs.imports:imports",
    "plan": "hooke.cli.verbs.plan:plans",
    "serve": "hooke.cli.serve.services:services",
}
"""Verbs that are not the function of their name in the module of their name."""


class Verbs(Commands):
    """Commands by name: verb V is `V` in `hooke.cli.verbs.V`, or as MADE_IN says. Its help is known without importing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which one meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The verb, imported; None where there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = MADE_IN.get(cmd_name, f"hooke.cli.verbs.{cmd_name}:{cmd_name}").partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The lines of VERBS."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click's signature
    if asked:
        from importlib.metadata import version

        click.echo(f"hooke {version('hooke')}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.option("--debug", is_flag=True, help="Show Python tracebacks of errors. Every command takes it too.")
@click.pass_obj
def hooke(session: CommandSession, *, debug: bool) -> None:
    """Plain Python pipelines: cached honestly, journalled, resumable.

    Try it: hooke demo
    """
    session.debug = session.debug or debug


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Every error becomes a screen on stderr."""
    session = CommandSession()
    try:
        code: Any = hooke.main(
            args=None if arguments is None else list(arguments),
            prog_name="hooke",
            standalone_mode=False,
            obj=session,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        return _unheard()
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return EXIT_STOPPED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except HookeError as error:
        click.echo(error_screen(error, session), err=True)
        return exit_code(error)
    except OSError as error:
        click.echo(error_screen(machine_error(error), session), err=True)
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said to be a bug
        click.echo(bug_screen(error), err=True)
        return EXIT_BROKEN
    return code if isinstance(code, int) else 0


def _unheard() -> int:
    """Whoever read our output has gone (`| head`): nothing is left to say, nor to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
