"""The command `hooke`: groups of commands, lazily imported verbs, and the handling of errors."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from hooke.base.distributions import HOOKE_VERSION
from hooke.base.errors import HookeError, UsageError
from hooke.base.this_process import keep_imports, silence
from hooke.cli.screens import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_STOPPED,
    NO_THREAD,
    CommandSession,
    bug_screen,
    error_screen,
    exit_code,
    machine_error,
)
from hooke.processes.start import end_ahead

__all__ = ["Commands", "FileOrVerbs", "completion", "hooke", "run_command"]


# --- Command groups that suggest the nearest name, and groups that accept a file as well as verbs.


class Commands(click.Group):
    """A click group with a better message for unknown commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or an error with the nearest name and all names."""
        valid = self.list_commands(ctx)
        if args and args[0] not in valid and not args[0].startswith("-"):
            near = get_close_matches(args[0], [*valid, "--help"], n=1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            ctx.fail(f"No such command {args[0]!r}. {meant}Commands: {', '.join(valid)}.")
        return super().resolve_command(ctx, args)


class FileOrVerbs(Commands):
    """A group that also accepts a file: words that are not verbs go to `file_command`, which has no name."""

    def __init__(self, *args: Any, file_command: click.Command, **given: Any) -> None:
        super().__init__(*args, **given)
        self._file_command = file_command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The verb, or the file and its options."""
        if not args and not self.no_args_is_help:
            args = ["file"]
        elif args and args[0] not in (*self.commands, "--help"):
            self._check(args[0])
            args = ["file", *args]
        return super().parse_args(ctx, args)

    def _check(self, word: str) -> None:
        """Raises UsageError for a word that is neither a verb nor looks like a file."""
        near = get_close_matches(word, self.commands, n=1)
        if near and "." not in word and not Path(word).exists():
            raise UsageError(
                f"hooke {self.name} {word}: not a verb and not a file",
                fix=f"did you mean {near[0]}? verbs: {', '.join(self.commands)}",
            )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, or the command for files."""
        return self._file_command if cmd_name == "file" else super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs in their order of definition."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The usage of the file command under the name of the group."""
        if args and args[0] == "file":
            return None, self._file_command, args[1:]
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help of the file command, then the verbs."""
        self._file_command.format_help(ctx, formatter)
        self.format_commands(ctx, formatter)


VERBS = {
    "run": "Run a pipeline: hooke run FILE.py[:PIPELINE] [--PARAMETER VALUE ...]",
    "schedule": "Start runs at given times: for cron, systemd or Kubernetes.",
    "attach": "Show the progress and the result of a run that goes on elsewhere.",
    "resume": "Continue a run that was stopped, failed or killed.",
    "runs": "List the runs of a project.",
    "compare": "Show what differs between runs, side by side.",
    "show": "Show a run: its tasks, what failed and why.",
    "report": "Write the page of a run as one HTML file.",
    "graph": "Draw the graph of a pipeline: as text, SVG or Mermaid.",
    "top": "Show what runs on this machine and in its fleets, and what it costs, live.",
    "logs": "Print what the tasks of a run printed.",
    "curve": "Show how a task scales, from a run or a study.",
    "reproduce": "Repeat a run from its record, and compare the results.",
    "debug": "Rerun one task in this process with its real inputs under pdb.",
    "sync": "Send what runs logged to the trackers.",
    "import": "Import runs of another tracker: hooke import neptune PATH",
    "export": "Write a pipeline as a file of another scheduler: hooke export airflow FILE.py -o OUT",
    "exec": "Run one task on inputs by reference, as exported pipelines do.",
    "image": "Build a container image of the project without Docker, and push it.",
    "models": "List registered models and their versions; trust a version.",
    "serve": "Serve a class over HTTP: hooke serve FILE.py[:CLASS] [--with NAME=VALUE]",
    "bench": "Load-test a service, and find the highest rate within its SLO.",
    "replay": "Replay a service's arrivals: what each autoscaler would have kept and cost.",
    "ui": "Show runs in a browser, live; with --mlflow, MLflow's pages.",
    "fleet": "List, scale, drain and terminate machines, explain sizes, and let machines join.",
    "stop": "Stop a run cleanly from another terminal.",
    "cache": "List, explain and remove stored results.",
    "measure": "Measure how a task or a pipeline scales, and whether it beats plain Python.",
    "plan": "Predict time and price here and on other machines; for a service: hooke plan service FILE.py",
    "prices": "List and update the price lists of providers.",
    "advise": "Recommend cpus and memory for each task, from what earlier runs used.",
    "doctor": "Check the installation and this machine.",
    "demo": "Run an example on real data: cache, edit, scaling, service.",
    "completion": "Print the completion script for a shell.",
}
"""Each verb with its line in `hooke --help`, which imports none of them."""
MADE_IN = {
    "attach": "hooke.cli.verbs.run:attach",
    "completion": "hooke.cli.entry:completion",
    "curve": "hooke.cli.verbs.measure:curve",
    "debug": "hooke.cli.verbs.reproduce:debug",
    "demo": "hooke.cli.demo.demo:demo",
    "exec": "hooke.cli.verbs.export:execute",
    "graph": "hooke.cli.verbs.pages:graph",
    "import": "hooke.cli.verbs.imports:imports",
    "plan": "hooke.cli.verbs.plan:plans",
    "report": "hooke.cli.verbs.pages:report",
    "serve": "hooke.cli.serve.services:services",
    "stop": "hooke.cli.verbs.runs:stop",
    "top": "hooke.cli.top:top",
    "ui": "hooke.cli.verbs.pages:ui",
}
"""Verbs whose module or function has another name."""


class Verbs(Commands):
    """The verbs: V is `V` in `hooke.cli.verbs.V`, or as in MADE_IN. `hooke --help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs in their order of definition."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The imported verb, or None."""
        if cmd_name not in VERBS:
            return None
        module, _, name = MADE_IN.get(cmd_name, f"hooke.cli.verbs.{cmd_name}:{cmd_name}").partition(":")
        command: click.Command = getattr(import_module(module), name)
        keep_imports()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The lines of VERBS."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click's signature
    if asked:
        click.echo(f"hooke {HOOKE_VERSION}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.option("--debug", is_flag=True, help="Show Python tracebacks of errors. Every command accepts it too.")
@click.pass_obj
def hooke(session: CommandSession, *, debug: bool) -> None:
    """Plain Python pipelines: cached, journalled, resumable.

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
    except HookeError as error:  # the first, because that of a task is also of the class that the task raised
        click.echo(error_screen(error, session), err=True)
        return exit_code(error)
    except BrokenPipeError:
        return _unheard()
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return EXIT_STOPPED
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(_NOT_WHOLE.sub("is not a whole number", shown.getvalue()), err=True, nl=False)
        return error.exit_code
    except (OSError, MemoryError) as error:
        click.echo(error_screen(machine_error(error), session), err=True)
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - any other error is a bug
        if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
            click.echo(error_screen(machine_error(error), session), err=True)
            return EXIT_FAILED
        click.echo(bug_screen(error), err=True)
        return EXIT_BROKEN
    finally:
        end_ahead()
        try:
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody reads it any more
            silence(sys.stderr)
    return code if isinstance(code, int) else 0


_NOT_WHOLE = re.compile(r"is not a valid integer( range)?")
"""Click's words for text where an option takes a number."""


def _unheard() -> int:
    """The reader of our output has gone (`| head`): do not flush at exit."""
    silence(sys.stdout)
    return 0


# --- `hooke completion`: shell completion of commands, options and run ids.

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> int:
    """Print the completion script for SHELL.

    \b
    bash   hooke completion bash > ~/.local/share/bash-completion/completions/hooke
    zsh    hooke completion zsh > ~/.zfunc/_hooke
    fish   hooke completion fish > ~/.config/fish/completions/hooke.fish
    """  # noqa: D301 - \b is the backspace with which click keeps lines apart
    made = get_completion_class(shell)
    if made is None:
        raise UsageError(f"no completion for the shell {shell!r}", fix=f"valid: {', '.join(SHELLS)}")
    click.echo(made(ctx.find_root().command, {}, "hooke", "_HOOKE_COMPLETE").source())
    return 0
