"""What a run was made of, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from hooke.journal.made_of import MadeOf

__all__ = ["sentence"]


def sentence(record: MadeOf) -> str:
    """Code, environment, machine, data and seed, as short as they can be said; `hooke show --json` has all."""
    return "; ".join(_parts(record))


def _parts(record: MadeOf) -> Iterator[str]:
    if record.tree:
        commit = f"commit {record.commit[:8]}" if record.commit else "no commit"
        branch = f" on {record.branch}" if record.branch else ""
        yield f"tree {record.tree[:8]} ({commit}{branch}{', with changes' if record.dirty else ''})"
    else:
        yield f"code not kept: {record.trouble}"
    yield f"environment {record.environment[:8]}, Python {record.interpreter.get('python', '?')}"
    yield ", ".join(filter(None, (record.hardware.get("cpu"), f"{record.hardware.get('cores', '?')} cores")))
    if record.files:
        yield f"{len(record.files)} data file{'s' * (len(record.files) != 1)}"
    if record.seed:
        yield f"seed {record.seed}"
    if record.left_out:
        yield f"not in the tree, as too large: {', '.join(record.left_out[:5])}"
