import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.needs import skip_without

from hooke.images.contents import MINOR, BuildOrder
from hooke.images.layout import EPOCH, Image, ImageLayout, architecture


def small_base(
    layout: ImageLayout, *, python: str = MINOR, machine: str = "", path: str = "usr/bin"
) -> Image:
    """A base with nothing but the name of a Python, as fast as it gets."""
    archive = layout.folder / "small.tar"
    with tarfile.open(archive, "w") as tar:
        entry = tarfile.TarInfo(f"./{path}/python{python}")
        entry.mode = 0o755
        tar.addfile(entry)
    layer, diff = layout.add_archive(archive)
    archive.unlink()
    config = {
        "architecture": machine or architecture(),
        "os": "linux",
        "created": EPOCH,
        "config": {"Env": ["PATH=/usr/bin", "LANG=C.UTF-8"], "Entrypoint": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    }
    return layout.add_base("small", [layer], config)


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout.create(tmp_path / "image")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "job.py").write_text("from hooke import pipeline, task\n")
    return folder


@pytest.fixture
def order(project: Path) -> BuildOrder:
    return BuildOrder(name="team/shop:1", project=project)


class LocalRegistry:
    """Debian's docker-registry on this machine's loopback, with its files in `folder`."""

    def __init__(self, folder: Path, *, auth: str = "") -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{free.getsockname()[1]}"
        settings = folder / "registry.yml"
        settings.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: false}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: {self.host}}}\n{auth}"
        )
        self.log = folder / "log"
        program = shutil.which("docker-registry")
        if program is None:
            skip_without("docker-registry")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([program, "serve", str(settings)], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).close()
            except urllib.error.HTTPError as error:
                error.close()
                break  # it asks for credentials
            except OSError:
                assert time.monotonic() < until, self.log.read_text()
                time.sleep(0.05)
            else:
                break

    def asked(self, method: str) -> int:
        """How many requests of that method came."""
        return self.log.read_text().count(f'"{method} /v2/')

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[LocalRegistry]:
    made = LocalRegistry(tmp_path_factory.mktemp("registry"))
    yield made
    made.end()
