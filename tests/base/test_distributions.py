from __future__ import annotations

import pickle

import pytest

from hooke.base.clock import SystemClock
from hooke.base.distributions import DISTRIBUTION, HOOKE_VERSION, Plugins, install_command, requirements
from hooke.base.errors import MissingExtra, UsageError


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A distribution that adds three engines, one of which cannot be imported."""
    (tmp_path / "wind_engine.py").write_text("class Wind:\n    pass\n")
    info = tmp_path / "hooke_wind-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hooke-wind\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hooke.engines]\nwind = wind_engine:Wind\nbroken = no_such_module_x:Y\nserial = wind_engine:Wind\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


BUILTIN = {
    "serial": "hooke.base.clock:SystemClock",
    "ray": "pickle_with_ray_x:Engine",
    "dask": "dask_x:Engine",
    "bug": "hooke.no_such_module:Engine",
}
EXTRAS = {"ray": "ray", "bug": "bug"}


def test_the_commands_that_install_hooke():
    assert install_command() == "pip install hooke-ml"
    assert install_command("serve", "mlflow") == 'pip install "hooke-ml[serve,mlflow]"'
    assert install_command("dask", exact=True) == f'pip install "hooke-ml[dask]=={HOOKE_VERSION}"'
    assert install_command(upgrade=True) == "pip install --upgrade hooke-ml"


def test_the_metadata_is_that_of_our_own_distribution():
    assert DISTRIBUTION == "hooke-ml"
    assert any(line.startswith("msgspec") for line in requirements())
    assert any("extra == 'serve'" in line.replace('"', "'") for line in requirements())


def test_ours_are_loaded_when_asked_for():
    assert Plugins("hooke.engines", {"serial": "hooke.base.clock:SystemClock"}).load("serial") is SystemClock


def test_a_missing_extra_names_the_exact_command():
    with pytest.raises(MissingExtra) as caught:
        Plugins("hooke.engines", BUILTIN, EXTRAS).load("ray")
    assert str(caught.value) == (
        "the engine 'ray' needs pickle_with_ray_x, which is not installed\n"
        "  why: No module named 'pickle_with_ray_x'\n"
        '  fix: pip install "hooke-ml[ray]"'
    )
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("name", ["dask", "bug"])
def test_what_no_extra_can_mend_is_not_called_an_extra(name):
    with pytest.raises(ModuleNotFoundError):
        Plugins("hooke.engines", BUILTIN, EXTRAS).load(name)


def test_an_unknown_name_lists_the_valid_ones(plugin):
    with pytest.raises(UsageError) as caught:
        Plugins("hooke.engines", BUILTIN, EXTRAS).load("slurm")
    assert "'slurm'" in caught.value.what
    assert caught.value.fix == "valid names: broken, bug, dask, ray, serial, wind"


def test_entry_points_add_names_and_ours_win(plugin):
    registry = Plugins("hooke.engines", BUILTIN, EXTRAS)
    assert registry.names() == ["broken", "bug", "dask", "ray", "serial", "wind"]
    assert registry.load("wind").__name__ == "Wind"
    assert registry.load("serial") is SystemClock


def test_a_broken_plugin_is_named_with_its_distribution(plugin):
    with pytest.raises(UsageError) as caught:
        Plugins("hooke.engines", BUILTIN, EXTRAS).load("broken")
    assert "hooke-wind" in caught.value.what
    assert "no_such_module_x" in caught.value.why
