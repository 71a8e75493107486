"""`hooke completion`: shell completion of commands, options and run ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hooke.base.errors import UsageError

__all__ = ["completion"]

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> int:
    r"""Print the completion script for SHELL.

    \b
    bash   hooke completion bash > ~/.local/share/bash-completion/completions/hooke
    zsh    hooke completion zsh > ~/.zfunc/_hooke
    fish   hooke completion fish > ~/.config/fish/completions/hooke.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise UsageError(f"no completion for the shell {shell!r}", fix=f"valid: {', '.join(SHELLS)}")
    click.echo(made(ctx.find_root().command, {}, "hooke", "_HOOKE_COMPLETE").source())
    return 0
