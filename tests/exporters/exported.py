"""A project with the ten pipelines, what they return here, and what the reference of an exported one stands for."""

from pathlib import Path

from tests.exporters.shapes import SOURCE

from hooke.exporters.targets import ExportOrder, export
from hooke.exporters.value_text import stored_value
from hooke.pipeline.references import resolve
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry


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
        return load_entry(f"{self.file}:{name}")[0](**params)

    def value(self, reference: str):
        """What a reference stands for."""
        stored = stored_value(reference)
        assert stored is not None, reference
        return resolve(stored, Project.at(self.folder).store())
