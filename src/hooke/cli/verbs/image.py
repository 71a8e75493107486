"""`hooke image`: builds container images of a project without Docker, and pushes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from hooke.base.distributions import DISTRIBUTION
from hooke.base.errors import UsageError
from hooke.base.formats import format_bytes
from hooke.cli.entry import Commands
from hooke.cli.options import in_project, json_option
from hooke.cli.screens import say_next
from hooke.images.contents import BuildOrder, build, debian_base, dockerfile
from hooke.images.layout import Image, ImageLayout
from hooke.images.registry import Registry, parse_image_name
from hooke.images.requirements import wanted_packages
from hooke.project.folder import Project

__all__ = ["image"]


class _Image(Commands):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands in their order of use."""
        return ["build", "push", "dockerfile"]


@click.group(cls=_Image)
def image() -> None:
    """Build a container image of the project without Docker, and push it to a registry."""


_packages = click.option(
    "--with",
    "packages",
    metavar="PACKAGE",
    multiple=True,
    help=f"A package of this environment that the image needs, with all that it requires, as for pip: pandas, {DISTRIBUTION}[dask]; may be repeated.",
)
_folder = click.option(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the image is.  [default: .hooke/image in the project]",
)


@image.command("build")
@click.argument("name", default="")
@click.option(
    "--base",
    default="",
    metavar="IMAGE",
    help="What the image begins with: a name in a registry, or a folder with an image.  [default: Debian with this Python, by mmdebstrap]",
)
@click.option("--fresh", is_flag=True, help="Make the base of Debian anew, with its newest packages.")
@_packages
@click.option(
    "--env",
    "variables",
    metavar="NAME=VALUE",
    multiple=True,
    help="A variable of the image; may be repeated.",
)
@_folder
@json_option
@in_project
def build_image(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    name: str,
    base: str,
    fresh: bool,
    packages: tuple[str, ...],
    variables: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    project: Project,
) -> int:
    """Build an image called NAME: Python, the packages of this environment, and the project's files.

    Hooke and what it requires come in anyway. Files that git ignores do not; outside a git repository, hidden files and
    environments do not. The same files give the same digest. Nothing in it runs as root.
    """
    order = BuildOrder(
        name=name or f"{project.root.name.lower()}:latest",
        project=project.root,
        packages=packages,
        environment=dict(_variable(each) for each in variables),
    )
    parse_image_name(order.name)
    wanted_packages(packages)  # before minutes go into a base
    layout = ImageLayout.create(_at(project, output))
    made = build(order, layout, _base(base, layout, fresh=fresh))
    if as_json:
        click.echo(
            json.dumps(
                {"name": order.name, "digest": made.manifest.digest, "folder": str(layout.folder)}, indent=2
            )
        )
        return 0
    click.echo(f"{order.name}: {made.manifest.digest}")
    click.echo(f"  {_sizes(made)}, in {layout.folder}")
    host = order.name.partition("/")[0]
    target = order.name if "." in host or ":" in host else f"REGISTRY/{order.name}"
    say_next(f"hooke image push {target}", project)
    return 0


@image.command("push")
@click.argument("name")
@_folder
@in_project
def push_image(*, name: str, output: Path | None, project: Project) -> int:
    """Push the image that was built to a registry, as NAME: HOST/REPOSITORY:TAG.

    Credentials are those of `docker login` (DOCKER_CONFIG, or .docker/config.json). Layers that the registry has are not sent again.
    """
    where = parse_image_name(name)
    layout = ImageLayout.open(_at(project, output))
    digest = Registry(where, os.environ).push(layout, _named(layout, name))
    click.echo(f"{where.host}/{where.repository}@{digest}")
    return 0


@image.command("dockerfile")
@_packages
@in_project
def print_dockerfile(*, packages: tuple[str, ...], project: Project) -> int:  # noqa: ARG001 - an option of all verbs
    """Print a Dockerfile for about the same image. Its packages are fetched from the index, in the versions that are installed here."""
    click.echo(dockerfile(packages), nl=False)
    return 0


def _at(project: Project, output: Path | None) -> Path:
    return project.create() / "image" if output is None else output


def _base(base: str, layout: ImageLayout, *, fresh: bool) -> Image:
    if not base:
        return debian_base(layout, fresh=fresh)
    if (Path(base) / "oci-layout").is_file():
        other = ImageLayout.open(Path(base))
        return layout.add_from(other, other.image())
    if base.startswith((".", "/")):
        raise UsageError(
            f"--base {base}: no folder with an image",
            fix="name one that has an oci-layout file, or an image in a registry",
        )
    return Registry(parse_image_name(base), os.environ).pull(layout)


def _named(layout: ImageLayout, name: str) -> Image:
    """The image of this name; else the one whose name ends like it, which was built without the registry's; else the only one."""
    names = layout.names()
    found = [each for each in names if each == name] or [each for each in names if name.endswith(f"/{each}")]
    return layout.image(found[0] if found else "")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(
            f"--env {text}: not NAME=VALUE", fix="write a name, =, and its value: --env MODEL=churn"
        )
    return name, value


def _sizes(made: Image) -> str:
    *base, packages, code = made.layers
    return (
        f"base {format_bytes(sum(each.size for each in base))}, packages {format_bytes(packages.size)}, "
        f"project {format_bytes(code.size)}"
    )
