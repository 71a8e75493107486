"""A project with the pipelines of all shapes, what they return here, and what the reference of an exported one stands for."""

import warnings
from pathlib import Path

from benchmarks.environments import environment_python
from tests.exporters.shapes import SOURCE

from hooke.exporters.targets import ExportOrder, export
from hooke.exporters.value_text import stored_value
from hooke.pipeline.references import resolve
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry

ENVIRONMENTS = {
    "airflow": (
        (
            *("apache-airflow", "apache-airflow-providers-cncf-kubernetes"),
            *("apache-airflow-providers-postgres", "asyncpg", "psycopg2-binary"),
        ),
        False,
    ),
    "kfp": (("kfp", "kfp-kubernetes"), False),
    "prefect": (("prefect",), True),
}
"""Scheduler -> what its environment has, and whether it has this environment's libraries, too."""


def environment_of(scheduler: str) -> Path:
    """Python of the environment of a scheduler: `airflow`, `prefect` or `kfp`."""
    distributions, shared = ENVIRONMENTS[scheduler]
    return environment_python(scheduler, *distributions, shared=shared)


class Exported:
    """The project in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "shapes_job.py"
        self.file.write_text(SOURCE, encoding="utf-8")
        (folder / "hooke.toml").touch()

    def export(self, target: str, name: str, out: Path, **asked) -> str:
        """The text of the exported pipeline, which is written."""
        found, file = load_entry(f"{self.file}:{name}")
        order = ExportOrder(target=target, pipeline=found, file=file, out=out, **asked)
        text = export(order, Project.at(self.folder))
        out.write_text(text, encoding="utf-8")
        return text

    def here(self, name: str, **params):
        """What the pipeline returns in this process, as plain Python."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* failed and are left out")
            return load_entry(f"{self.file}:{name}")[0](**params)

    def value(self, reference: str):
        """What a reference stands for."""
        stored = stored_value(reference)
        assert stored is not None, reference
        return resolve(stored, Project.at(self.folder).store())
