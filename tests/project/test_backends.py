"""From what stands after `on=` to a place."""

import types

import pytest

from hooke.base.errors import ConfigError, UsageError
from hooke.project.backends import find_backend
from hooke.project.settings import BackendSettings, read_settings


def place(name, **places):
    return find_backend(name, workers=None, places=places)


def test_an_engine_with_or_without_a_number():
    assert (place("dask").engine, place("dask").workers, place("dask").at) == ("dask", None, None)
    assert (place("dask:4").engine, place("dask:4").workers) == ("dask", (4, 4))


@pytest.mark.parametrize(
    "address", ["tls://head:8786", "tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:1"]
)
def test_an_address(address):
    found = place(address)
    assert (found.name, found.engine, found.at) == (address, "dask", address)


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.5:8786", "tcp://head:8786", "tcp://127.0.0.1.example.com:8786", "tcp://:8786"]
)
def test_code_does_not_go_to_another_machine_unprotected(address):
    with pytest.raises(UsageError, match="not encrypted") as refused:
        place(address)
    assert "insecure = true" in refused.value.fix


class Cluster:
    """As one of Dask's, connected to a scheduler."""

    def __init__(self, address):
        self.scheduler_address = address


class Client:
    """As one of Dask's."""

    def __init__(self, address):
        self.scheduler = types.SimpleNamespace(address=address)


@pytest.mark.parametrize("kind", [Cluster, Client])
def test_nor_through_a_cluster_or_a_client_of_the_user(kind):
    for address in ("tcp://10.0.0.5:8786", "ucx://10.0.0.5:8786", "tcp://head:8786"):
        with pytest.raises(UsageError, match=f"and {address[:3]}:// is not encrypted") as refused:
            place(kind(address))
        assert "insecure = true" in refused.value.fix
    for address in ("tls://10.0.0.5:8786", "tcp://127.0.0.1:4567", "inproc://10.0.0.5/77/1"):
        assert place(kind(address)).name == address
    ours = BackendSettings(engine="dask", address="tcp://10.0.0.5:8786", insecure=True)
    assert place(kind("tcp://10.0.0.5:8786"), ours=ours).name == "tcp://10.0.0.5:8786"


def test_unless_it_is_said_to_be_safe():
    ours = BackendSettings(engine="dask", address="tcp://10.0.0.5:8786", insecure=True)
    assert place("ours", ours=ours).at == "tcp://10.0.0.5:8786"
    assert place("tcp://10.0.0.5:8786", ours=ours).at == "tcp://10.0.0.5:8786"
    with pytest.raises(UsageError, match="not encrypted"):
        place("tcp://10.0.0.6:8786", ours=ours)


def test_a_place_in_the_file(tmp_path):
    (tmp_path / "hooke.toml").write_text('[places.lab]\nengine = "dask"\naddress = "tls://head:8786"\n')
    found = place("lab", **read_settings(tmp_path).places)
    assert (found.name, found.engine, found.at) == ("lab", "dask", "tls://head:8786")


@pytest.mark.parametrize(
    ("table", "wrong", "what", "fix"),
    [
        ("places.gpu", "gpus = 1.5", "gpus = 1.5 is not valid", "whole number"),
        ("places.gpu", 'cpus = "500m"', "cpus = '500m' is not valid", "cpus = 0.5"),
        ("places.gpu", 'lifetime = "soon"', "lifetime", ""),
        ("places.gpu", "account = 3", "account = 3 is not valid", "write a name"),
        ("places.gpu", "driver_template = {spce = {}}", "driver_template has an unknown key: spce", "spec"),
        ("fleets.gpu", "gpus = 1.5", "gpus = 1.5 is not valid", "whole number"),
        ("fleets.gpu", "keeper_image = 3", "keeper_image = 3 is not valid", "write a name"),
    ],
)
def test_options_of_pods_are_refused_where_they_are_read(table, wrong, what, fix, tmp_path):
    kind = "engine" if table.startswith("places") else "provider"
    file = tmp_path / "hooke.toml"
    file.write_text(f'[{table}]\n{kind} = "kubernetes"\n{wrong}\n')
    with pytest.raises(ConfigError) as refused:
        read_settings(tmp_path)
    assert str(file) in refused.value.what
    assert f"[{table}]" in refused.value.what
    assert what in refused.value.what
    assert fix in refused.value.fix


def test_options_of_pods_may_lack_an_image_that_comes_later(tmp_path):
    place = '[places.gpu]\nengine = "kubernetes"\ngpus = 1\nhome = "claim"\nlifetime = "8h"\n'
    fleet = '[fleets.gpu]\nprovider = "kubernetes"\ncommand = ["worker"]\naccount = "robot"\n'
    (tmp_path / "hooke.toml").write_text(place + fleet)
    assert read_settings(tmp_path).places["gpu"].options["gpus"] == 1


@pytest.mark.parametrize(
    "address", ["ray://127.0.0.1:10001", "127.0.0.1:6379", "localhost:6379", "[::1]:6379"]
)
def test_an_address_of_ray(address):
    found = place(address)
    assert (found.name, found.engine, found.at) == (address, "ray", address)


@pytest.mark.parametrize("address", ["ray://head:10001", "10.0.0.5:6379", "head.lab:6379"])
def test_ray_on_another_machine_is_encrypted_or_said_to_be_safe(address, monkeypatch):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with pytest.raises(UsageError, match="not encrypted") as refused:
        place(address)
    assert "RAY_USE_TLS" in refused.value.fix
    assert place("lab", lab=BackendSettings(engine="ray", address=address, insecure=True)).at == address
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert place(address).at == address


def test_a_ray_that_this_machine_has():
    found = place("lab", lab=BackendSettings(engine="ray", address="auto"))
    assert (found.engine, found.at) == ("ray", "auto")


def test_a_number_after_an_unknown_name_is_no_address():
    with pytest.raises(UsageError, match="no backend is called"):
        place("lcoal:4")


def test_an_unknown_scheme_is_no_place():
    with pytest.raises(UsageError, match="no backend is called"):
        place("ftp://head:1")


def test_an_object_that_is_no_cluster():
    with pytest.raises(UsageError, match="not int"):
        place(3)


def test_keys_of_a_place_are_files_beside_the_settings(tmp_path):
    lines = ["[places.lab]", 'engine = "dask"', 'address = "tls://head:8786"']
    keys = [f'{name} = "keys/{name}.pem"' for name in ("tls_ca", "tls_cert", "tls_key")]
    (tmp_path / "hooke.toml").write_text("\n".join(lines + keys))
    found = place("lab", **read_settings(tmp_path).places)
    assert found.keys == tuple(
        str(tmp_path / "keys" / f"{name}.pem") for name in ("tls_ca", "tls_cert", "tls_key")
    )
    (tmp_path / "hooke.toml").write_text("\n".join(lines + keys[:2]))
    with pytest.raises(ConfigError, match="only tls_ca, tls_cert"):
        read_settings(tmp_path)


def test_an_address_is_not_that_of_another_engine():
    with pytest.raises(UsageError, match="the engine 'local'") as refused:
        place("lab", lab=BackendSettings(address="tls://head:8786"))
    assert 'engine = "dask"' in refused.value.fix


def test_an_address_without_a_scheme_is_rays(monkeypatch):
    """Dask would take it for tcp://, which to another machine is refused."""
    monkeypatch.setenv("RAY_USE_TLS", "1")
    for engine, fix in (("dask", 'address = "tls://head.lab:8786"'), ("local", 'engine = "ray"')):
        places = {"lab": BackendSettings(engine=engine, address="head.lab:8786")}
        with pytest.raises(UsageError, match="has the address 'head.lab:8786' and the engine") as refused:
            find_backend("lab", workers=None, places=places)
        assert fix in refused.value.fix


def test_an_engine_that_there_is_not_is_named():
    with pytest.raises(UsageError, match=r"\[places.lab\] has the unknown engine 'dsk'") as refused:
        find_backend("lab", workers=None, places={"lab": BackendSettings(engine="dsk")})
    assert "did you mean 'dask'?" in refused.value.fix


def test_keys_without_an_address_that_takes_them_are_refused():
    odd = BackendSettings(engine="dask", address="tcp://127.0.0.1:1", tls_ca="a", tls_cert="b", tls_key="c")
    with pytest.raises(UsageError, match="has TLS keys but no tls"):
        find_backend("lab", workers=None, places={"lab": odd})
