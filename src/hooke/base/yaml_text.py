"""YAML, by PyYAML: an extra, because a few commands alone need it. It takes 30 ms to import, so it is imported when it is needed."""

from __future__ import annotations

import functools
from typing import Any

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra

__all__ = ["parse_yaml", "write_yaml"]


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML document, of plain types alone. Raises ValueError with what is wrong, MissingExtra."""
    library = _library()
    try:
        return library.safe_load(text)
    except library.YAMLError as error:
        raise ValueError(str(error)) from None


def write_yaml(value: Any) -> str:
    """A value of plain types as YAML for people to read: in its own order, and what it has twice is written twice. Raises MissingExtra."""
    return str(_library().dump(value, Dumper=_plain_dumper(), sort_keys=False))


def _library() -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "YAML needs PyYAML, which is not installed", why=str(error), fix=install_command("yaml")
        ) from error
    return yaml


@functools.cache
def _plain_dumper() -> Any:
    class Plain(_library().SafeDumper):  # type: ignore[misc]
        """Without `&id001` for what stands twice."""

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
            return True

    return Plain
