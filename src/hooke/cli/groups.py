"""Command groups that suggest the nearest name, and groups that accept a file as well as verbs."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import UsageError

__all__ = ["Commands", "FileOrVerbs"]


class Commands(click.Group):
    """A click group with a better message for unknown commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or an error with the nearest name and all names."""
        valid = self.list_commands(ctx)
        if args and args[0] not in valid and not args[0].startswith("-"):
            near = get_close_matches(args[0], valid, n=1)
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
