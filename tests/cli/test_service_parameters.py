"""What `setup` takes: from `--with`, else from hooke.toml; what does not fit is refused where it is written."""

import re

import numpy as np
import pytest

from hooke import ConfigError, UsageError, service
from hooke.cli.parameters import bindings
from hooke.models.registry_protocol import VersionQuery
from hooke.project.folder import Project
from hooke.services.serve_file import check_bindings, shown_values
from hooke.serving.service import service_of


@service
class Delay:
    def setup(self, model, threshold: float = 1.0, names: list[str] | None = None, label: str = ""):
        self.model = model

    def predict(self, rows: list) -> list:
        return rows


@service
class Open:
    def setup(self, **others):
        self.others = others

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x


@service
class Limit:
    def setup(self, threshold: float):
        self.threshold = threshold

    def predict(self, x: float) -> bool:
        return x > self.threshold


@pytest.mark.parametrize(
    ("declared", "given", "fix"),
    [
        (Limit, {}, "give a value: --with threshold=NUMBER"),
        (Delay, {}, "give a registered model or a value: --with model=flights@champion"),
        (Limit, {"treshold": 1}, "did you mean threshold? it takes: threshold"),
    ],
)
def test_what_setup_lacks_is_asked_for_by_its_kind(declared, given, fix):
    with pytest.raises(UsageError) as refused:
        check_bindings(service_of(declared), given)
    assert refused.value.fix == fix


def project(folder, text, name="Delay"):
    (folder / "hooke.toml").write_text(f"[services.{name}.with]\n{text}\n")
    return Project.find(folder)


def test_the_file_says_what_the_command_line_does_not(tmp_path):
    where = project(tmp_path, 'model = "flights@champion"\nthreshold = 15\nnames = ["a"]\nlabel = "7"')
    found = bindings(service_of(Delay), [], where)
    assert found == {
        "model": VersionQuery(name="flights", alias="champion"),
        "threshold": 15.0,
        "names": ["a"],
        "label": "7",
    }
    found = bindings(service_of(Delay), ["model=flights:3", "threshold=2"], where)
    assert (found["model"], found["threshold"], found["names"]) == (
        VersionQuery(name="flights", number=3),
        2.0,
        ["a"],
    )


def test_another_service_takes_nothing_of_it(tmp_path):
    assert bindings(service_of(Open), [], project(tmp_path, 'model = "flights@champion"')) == {}
    found = bindings(service_of(Open), [], project(tmp_path, 'any = "flights"', "Open"))
    assert found == {"any": VersionQuery(name="flights")}


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        (
            'modle = "flights"',
            r"unknown key services\.Delay\.with\.modle",
            r"did you mean services\.Delay\.with\.model",
        ),
        ("model = 3", r"services\.Delay\.with\.model: 3 is not the name of a model", "flights@champion"),
        ('model = "a b"', r"services\.Delay\.with\.model: 'a b' is not a valid model reference", "NAME"),
        ('threshold = "much"', r"services\.Delay\.with\.threshold: ", ""),
        ("threshold = [1]", r"services\.Delay\.with\.threshold = \[1\] is not of type ", ""),
        ("names = 3", r"services\.Delay\.with\.names = 3 is not of type ", ""),
    ],
)
def test_what_does_not_fit_names_the_file_and_the_key(tmp_path, text, said, fix):
    with pytest.raises(ConfigError, match=said) as refused:
        bindings(service_of(Delay), [], project(tmp_path, text))
    assert "hooke.toml" in refused.value.what
    assert re.search(fix, refused.value.fix)


def test_other_keys_are_refused(tmp_path):
    (tmp_path / "hooke.toml").write_text("[services.Delay]\nwiht = {}\n")
    with pytest.raises(ConfigError, match=r"services\.Delay\.wiht") as refused:
        Project.find(tmp_path)
    assert "did you mean services.Delay.with" in refused.value.fix


@pytest.mark.parametrize("name", ["Dealy", "delay", "DELAY", "Delays"])
def test_a_table_of_nearly_its_name_is_another_services_or_misspelt(tmp_path, name):
    where = project(tmp_path, 'model = "flights"', name)
    (tmp_path / "own.py").write_text("class Delay:\n    pass\n")
    with pytest.raises(ConfigError, match=rf"\[services\.{name}\] belongs to no service") as refused:
        bindings(service_of(Delay), ["model=flights"], where)
    assert "rename it to [services.Delay.with]" in refused.value.fix
    (tmp_path / "other.py").write_text(f"if True:\n    class {name}(object):\n        pass\n")
    assert bindings(service_of(Delay), [], where) == {}


def test_options_are_checked_as_before(tmp_path):
    for given in (["model"], ["model="], ["model=a", "model=b"], ["threshold=x"]):
        with pytest.raises(UsageError, match="--with"):
            bindings(service_of(Delay), given, Project.find(tmp_path))


def test_what_is_given_is_listed_as_it_was_asked_for(tmp_path):
    given = bindings(service_of(Delay), ["model=flights@champion", "threshold=2"], Project.find(tmp_path))
    assert shown_values(given) == {"model": "flights@champion", "threshold": "2.0"}
