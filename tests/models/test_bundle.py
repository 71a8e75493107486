"""A saved model's files, and what is noticed of a change to them; pickles, and who may read them."""

import json

import pytest
from blake3 import blake3

from hooke.base.errors import CorruptObject, HookeError, UntrustedModel
from hooke.models.bundle import MANIFEST, check_files, decode, seal, size_of
from hooke.models.format import FORMATS, LoadOptions, format_of
from hooke.models.formats.pickled import PickleFormat
from hooke.models.pyfunc import PlainModel
from hooke.registry.loaded_models import KnownModels


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "weights").write_bytes(b"0123")
    digest, manifest = seal(tmp_path, format="pickle", details={"a": 1}, code="c", libraries={"numpy": "2.0"})
    assert manifest == opened(tmp_path, digest)
    return digest


def opened(folder, digest):
    return decode((folder / MANIFEST).read_bytes(), digest, where=str(folder))


def test_what_was_sealed_is_read_back(tmp_path, sealed):
    manifest = opened(tmp_path, sealed)
    check_files(tmp_path, manifest)
    assert (manifest.format, manifest.details, manifest.code, manifest.libraries) == (
        "pickle",
        {"a": 1},
        "c",
        {"numpy": "2.0"},
    )
    assert size_of(tmp_path, manifest) == 4


def test_equal_files_have_one_digest(tmp_path, sealed):
    (tmp_path / MANIFEST).unlink()
    assert (
        seal(tmp_path, format="pickle", details={"a": 1}, code="c", libraries={"numpy": "2.0"})[0] == sealed
    )
    (tmp_path / MANIFEST).unlink()
    assert seal(tmp_path, format="skops", details={"a": 1}, code="c", libraries={"numpy": "2.0"})[0] != sealed


def test_a_changed_file_is_refused_by_name(tmp_path, sealed):
    manifest = opened(tmp_path, sealed)
    (tmp_path / "weights").write_bytes(b"0124")
    with pytest.raises(CorruptObject, match="weights was changed"):
        check_files(tmp_path, manifest)
    (tmp_path / "weights").unlink()
    with pytest.raises(CorruptObject, match="weights is missing"):
        check_files(tmp_path, manifest)


def test_a_changed_manifest_is_refused(tmp_path, sealed):
    file = tmp_path / MANIFEST
    file.write_bytes(file.read_bytes().replace(b'"pickle"', b'"skops"'))
    with pytest.raises(CorruptObject, match="its manifest was changed"):
        opened(tmp_path, sealed)


@pytest.mark.parametrize("name", ["../weights", "/etc/passwd", "a/b", "", "..", ".hidden"])
def test_a_manifest_names_no_file_elsewhere(tmp_path, sealed, name):
    file = tmp_path / MANIFEST
    table = json.loads(file.read_bytes())
    table["files"] = {name: "0" * 64}
    file.write_text(json.dumps(table))
    with pytest.raises(CorruptObject, match="outside its folder"):
        opened(tmp_path, blake3(file.read_bytes()).hexdigest())


def test_a_manifest_of_a_later_hooke_is_said_to_be_unreadable(tmp_path):
    (tmp_path / MANIFEST).write_text('{"fromat": 1}')
    with pytest.raises(CorruptObject, match="cannot be read"):
        opened(tmp_path, blake3(b'{"fromat": 1}').hexdigest())


class Doubles:
    def predict(self, rows):
        return [2 * row for row in rows]


def test_a_pickle_is_read_only_if_it_is_known(tmp_path):
    format = PickleFormat()
    saved = format.save(Doubles(), tmp_path, LoadOptions(label="m"))
    assert saved.flavors == {}, "plain MLflow would not ask"
    assert format.load(tmp_path, {}, LoadOptions(label="m:1", known=True)).predict([3]) == [6]
    with pytest.raises(UntrustedModel, match="m:1 is a pickle that this project does not trust") as refused:
        format.load(tmp_path, {}, LoadOptions(label="m:1"))
    assert refused.value.next == "hooke models trust m:1"


def test_plain_mlflow_is_not_led_to_a_pickle(tmp_path):
    PickleFormat().save(Doubles(), tmp_path, LoadOptions(label="m"))
    seal(tmp_path, format="pickle", details={}, code="", libraries={})
    with pytest.raises(UntrustedModel, match="is a pickle that this project does not trust"):
        PlainModel(tmp_path)


def test_what_cannot_be_pickled_is_said(tmp_path):
    with pytest.raises(HookeError, match="m cannot be pickled"):
        PickleFormat().save((each for each in ()), tmp_path, LoadOptions(label="m"))


def test_a_digest_is_known_once_it_was_added(tmp_path):
    known, digest = KnownModels(tmp_path / "known"), blake3(b"").hexdigest()
    assert digest not in known
    known.add(digest, "a test")
    assert digest in KnownModels(tmp_path / "known")
    assert "../known/" + digest not in known


def test_the_format_is_chosen_without_an_import():
    assert format_of(b"onnx") == "onnx"
    assert format_of(Doubles()) == format_of({"a": 1}) == "pickle"
    assert FORMATS.names() == ["onnx", "pickle", "safetensors", "skops"]
