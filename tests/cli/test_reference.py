"""docs/reference/cli.md is what `--help` prints. `python -m tests.cli.test_reference` writes it anew."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md"
HEAD = """# Command line

What `--help` prints, command by command. Listings take `--json`; results go to stdout and all else to stderr; exit codes are
explained [with the errors](../explanation/errors.md).
"""


def commands(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    """The command and those below it, with the words that name them."""
    found = [(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            assert below is not None
            found += commands(below, f"{name} {verb}")
    return found


def page() -> str:
    parts = [HEAD]
    for name, _ in commands(hooke, "hooke"):
        words = name.split()[1:]
        done = CliRunner().invoke(
            hooke,
            [*words, "--help"],
            prog_name="hooke",
            obj=CommandSession(),
            terminal_width=100,
            max_content_width=100,
        )
        assert done.exit_code == 0, done.output
        parts.append(f"## {name}\n\n```text\n{done.output.rstrip()}\n```\n")
    return "\n".join(parts)


@pytest.mark.needs("cpu")
def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == page(), "python -m tests.cli.test_reference"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
