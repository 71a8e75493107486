"""`hooke models`: registered models, and those that this project trusts."""

from __future__ import annotations

import json
from typing import Any

import click

from hooke.base.errors import UsageError
from hooke.base.formats import aligned, format_bytes
from hooke.cli.entry import Commands
from hooke.cli.options import in_project, json_option
from hooke.cli.screens import say_next
from hooke.journal.run_view import moment
from hooke.models import registry_protocol as protocol
from hooke.project.folder import Project
from hooke.registry.loaded_models import fetched, models_of, registry_of, registry_uri

__all__ = ["models"]

COLUMNS = ("model", "versions", "newest", "aliases")
VERSION_COLUMNS = ("version", "aliases", "metrics", "format", "size", "registered", "run")


class _Models(Commands):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands in their order of definition."""
        return ["ls", "show", "trust"]


@click.group(cls=_Models)
def models() -> None:
    """List registered models and their versions; trust a version.

    They are in MLflow's registry: the project's `mlflow.db`, or the server in MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI.
    """


@models.command("ls")
@json_option
@in_project
def list_models(*, as_json: bool, project: Project) -> int:
    """List the registered models."""
    registry = registry_of(project)
    listed = {name: registry.versions(name) for name in registry.names()}
    if as_json:
        facts = {name: [_facts(version) for version in versions] for name, versions in listed.items()}
        click.echo(json.dumps(facts, indent=2))
        return 0
    if not listed:
        click.echo(f"no models in {registry_uri(project)}\nnext: hooke.register(model, name)", err=True)
        return 0
    click.echo(
        "\n".join(aligned(COLUMNS, [_row(name, versions) for name, versions in listed.items()], right=(1, 2)))
    )
    say_next(f"hooke models show {next(iter(listed))}", project)
    return 0


@models.command("show")
@click.argument("name")
@json_option
@in_project
def show_model(*, name: str, as_json: bool, project: Project) -> int:
    """List the versions of model NAME, the newest first."""
    registry = registry_of(project)
    wanted = protocol.parse_wanted(name)
    newest = protocol.find(registry, wanted)
    versions = (
        registry.versions(wanted.name) if wanted == protocol.VersionQuery(name=wanted.name) else [newest]
    )
    if as_json:
        click.echo(json.dumps([_facts(version) for version in versions], indent=2))
        return 0
    click.echo("\n".join(aligned(VERSION_COLUMNS, [_cells(version) for version in versions], right=(0, 4))))
    return 0


@models.command("trust")
@click.argument("model", metavar="NAME:VERSION")
@in_project
def trust_model(*, model: str, project: Project) -> int:
    """Let this project load NAME:VERSION, which was registered elsewhere and may run code when loaded.

    Hooke fetches the files and records their digest. If they change later, the version is no longer trusted.
    """
    wanted = protocol.parse_wanted(model)
    if wanted.number is None:
        raise UsageError(
            f"trust is for one version, and {model} may name another one tomorrow",
            fix=f"pass a version: hooke models trust {wanted.name}:VERSION",
        )
    registry: protocol.ModelRegistry = registry_of(project)
    version = protocol.find(registry, wanted)
    _, manifest = fetched(project, registry, version)
    models_of(project).known.add(version.digest, f"trusted as {version.label}")
    types = ", ".join(manifest.details.get("types", ()))
    click.echo(
        f"trusted: {version.label}, {manifest.format}{f' of {types}' if types else ''}, {version.digest[:12]}"
    )
    return 0


def _row(name: str, versions: list[protocol.RegisteredVersion]) -> tuple[str, ...]:
    aliases = [f"{alias}={version.number}" for version in versions for alias in version.aliases]
    newest = str(versions[0].number) if versions else ""
    return (name, str(len(versions)), newest, ", ".join(sorted(aliases)))


def _cells(version: protocol.RegisteredVersion) -> tuple[str, ...]:
    metrics = ", ".join(f"{name}={value:.4g}" for name, value in version.metrics.items())
    size = version.tags.get(protocol.SIZE, "")
    return (
        str(version.number),
        ", ".join(version.aliases),
        metrics if len(metrics) <= 60 else f"{metrics[:57]}...",
        version.tags.get(protocol.FORMAT, "not Hooke's"),
        format_bytes(int(size)) if size.isdecimal() else "",
        moment(version.created_at),
        version.tags.get(protocol.RUN) or version.mlflow_run,
    )


def _facts(version: protocol.RegisteredVersion) -> dict[str, Any]:
    size = version.tags.get(protocol.SIZE, "")
    return {
        "name": version.name,
        "version": version.number,
        "aliases": list(version.aliases),
        "metrics": version.metrics,
        "format": version.tags.get(protocol.FORMAT),
        "size_bytes": int(size) if size.isdecimal() else None,
        "run": version.tags.get(protocol.RUN),
        "mlflow_run": version.mlflow_run or None,
        "registered_at": version.created_at,
        "digest": version.digest or None,
    }
