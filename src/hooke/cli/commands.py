"""A group of commands that names the nearest one when there is none of that name."""

from __future__ import annotations

from difflib import get_close_matches

import click

__all__ = ["Commands"]


class Commands(click.Group):
    """As click's, but for what is said of a command that does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Fails naming the nearest command and all of them."""
        valid = self.list_commands(ctx)
        if args and args[0] not in valid and not args[0].startswith("-"):
            near = get_close_matches(args[0], valid, n=1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            ctx.fail(f"No such command {args[0]!r}. {meant}Commands: {', '.join(valid)}.")
        return super().resolve_command(ctx, args)
