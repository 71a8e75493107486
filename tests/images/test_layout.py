"""Images as they are written: the same files give the same bytes, and nothing is taken that is not what its name says."""

import gzip
import hashlib
import json
import os
import tarfile

import pytest
from tests.images.conftest import small_base

from hooke.base.errors import CorruptObject, HookeError, MissingObject, UsageError
from hooke.images.layout import Descriptor, ImageLayout, Inside


def files_of(layout, layer):
    with layout.path(layer.digest).open("rb") as file, tarfile.open(fileobj=file) as tar:
        return {each.name: each for each in tar}


def test_the_same_files_give_the_same_bytes(tmp_path):
    """Whoever owns them, whenever they were written, in whatever order they come."""
    made = []
    for place, order in (("one", 1), ("two", -1)):
        folder = tmp_path / place
        folder.mkdir()
        for name in ("b.py", "a.sh"):
            (folder / name).write_text(name)
            os.utime(folder / name, (order * 10**6 + 10**7, 10**7))
        (folder / "a.sh").chmod(0o700)
        layout = ImageLayout.create(tmp_path / f"{place}-image")
        files = [Inside(path="app/b.py", file=folder / "b.py"), Inside(path="app/a.sh", file=folder / "a.sh")]
        made.append(layout.add_layer(files[::order]))
    assert made[0] == made[1]
    inside = files_of(layout, made[0][0])
    assert [*inside] == ["app", "app/a.sh", "app/b.py"]
    assert {(each.uid, each.gid, each.uname, each.mtime) for each in inside.values()} == {(0, 0, "", 0)}
    assert [f"{each.mode:o}" for each in inside.values()] == ["755", "755", "644"]


def test_an_owner_has_the_folders_above_its_files_too(layout):
    layer, _ = layout.add_layer(
        [Inside(path="app/sub/a.py", content=b"", owner=7), Inside(path="opt/b", content=b"")]
    )
    owners = {name: (each.uid, each.gid) for name, each in files_of(layout, layer).items()}
    own, root = (7, 7), (0, 0)
    assert owners == {"app": own, "app/sub": own, "app/sub/a.py": own, "opt": root, "opt/b": root}


def test_the_configuration_names_the_archive_before_compression(layout):
    layer, diff = layout.add_layer([Inside(path="x", content=b"1"), Inside(path="l", link="/x")])
    plain = gzip.decompress(layout.path(layer.digest).read_bytes())
    assert diff == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert files_of(layout, layer)["l"].linkname == "/x"


def test_an_image_takes_the_place_of_one_of_its_name(layout):
    base = small_base(layout)
    for name, variable in (("a:1", "x"), ("b:1", "x"), ("a:1", "y")):
        made = layout.add_image(name, base.layers, {**base.config, "config": {"Env": [f"V={variable}"]}})
    assert layout.names() == ["a:1", "b:1"]
    assert layout.image("a:1") == made
    with pytest.raises(MissingObject, match="holds 2 images") as raised:
        layout.image()
    assert raised.value.why == "its images: a:1, b:1"
    with pytest.raises(MissingObject, match="holds no image 'c:1'"):
        layout.image("c:1")


def test_a_damaged_blob_is_refused_by_name(layout, tmp_path):
    base = small_base(layout)
    made = layout.add_image("a:1", base.layers, base.config)
    path = layout.path(made.config_blob.digest)
    path.write_bytes(path.read_bytes().replace(b"linux", b"Linux"))
    with pytest.raises(CorruptObject, match="is damaged: its content has another digest"):
        layout.image("a:1")
    other = ImageLayout.create(tmp_path / "other")
    with pytest.raises(CorruptObject, match=made.config_blob.digest):
        other.add_from(layout, made)
    assert not other.path(made.config_blob.digest).exists()
    path.unlink()
    with pytest.raises(MissingObject, match=f"lacks {made.config_blob.digest}"):
        other.add_from(layout, made)


@pytest.mark.parametrize(
    "digest", ["sha256:../../index.json", "sha256:" + "A" * 64, "sha512:" + "a" * 128, "a" * 64, ""]
)
def test_a_digest_names_no_other_file(layout, digest):
    with pytest.raises(CorruptObject, match="is no sha256 digest"):
        layout.read(Descriptor(media_type="text/plain", digest=digest, size=1))


def test_folders_that_are_something_else_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no image"):
        ImageLayout.create(tmp_path)
    with pytest.raises(UsageError, match="holds no image"):
        ImageLayout.open(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_that_shrinks_while_it_is_read(layout, tmp_path, monkeypatch):
    path = tmp_path / "shrinks"
    path.write_bytes(b"x" * 10)
    real = os.fstat

    def longer(fd):
        facts = real(fd)
        if os.readlink(f"/proc/self/fd/{fd}") == str(path):
            return os.stat_result([*facts[:6], 20, *facts[7:]])
        return facts

    monkeypatch.setattr(os, "fstat", longer)
    with pytest.raises(UsageError, match="became shorter while it was read"):
        layout.add_layer([Inside(path="shrinks", file=path)])
    assert not [each for each in layout.folder.iterdir() if each.name.startswith("tmp")]


def test_a_folder_without_room_is_named(layout, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hooke.images.layout.write_atomic", full)
    with pytest.raises(HookeError, match="the image cannot be written"):
        layout.add(json.dumps({}).encode(), "text/plain")
