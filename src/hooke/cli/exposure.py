"""The options that say where a service is reached and what it asks of who asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import UsageError
from hooke.serving.exposure import Exposure, Tls

__all__ = ["exposure_options"]

_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
    ),
    click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="The address to listen on; others need TLS and token.",
    ),
    click.option(
        "--allow-host", "names", multiple=True, metavar="NAME", help="A name by which clients ask for it."
    ),
    click.option(
        "--token-file",
        type=_FILE,
        metavar="FILE",
        help="The token; one is made in the project's .hooke without it.",
    ),
    click.option("--no-auth", is_flag=True, help="Ask for no token; on this machine alone."),
    click.option(
        "--tls-cert", type=_FILE, metavar="FILE", help="The certificate and what it is signed by, as PEM."
    ),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="Its key, as PEM."),
)


def exposure_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that the function gets as `exposure`. Raises UsageError for a certificate without its key."""

    @functools.wraps(function)
    def wrapped(*args: Any, **given: Any) -> Any:
        cert, key = given.pop("tls_cert"), given.pop("tls_key")
        if (cert is None) != (key is None):
            raise UsageError("--tls-cert and --tls-key go together", mend="give both, or none")
        exposure = Exposure(
            host=given.pop("host"),
            port=given.pop("port"),
            names=given.pop("names"),
            auth=not given.pop("no_auth"),
            token_file=given.pop("token_file"),
            tls=Tls(cert=cert, key=key) if cert is not None else None,
        )
        return function(*args, exposure=exposure, **given)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
