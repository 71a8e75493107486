"""Who this process is at an API server: files, several of them, plug-ins, and a pod's own account."""

import base64
import datetime
import json
import os
import sys

import pytest
import yaml

from hooke.base.errors import UsageError
from hooke.kubernetes.kubeconfig import access_of, find_access, pod_access

SERVER = "https://10.0.0.1:6443"


def config(folder, *, user=None, cluster=None, name="config", **more):
    file = folder / name
    made = {
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "t"} if user is None else user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        **more,
    }
    file.write_text(yaml.safe_dump(made))
    return file


def plugin(folder, code, **more):
    """A user whose plug-in is a Python program."""
    (folder / "plugin.py").write_text("import json, os, sys\n" + code)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(folder / "plugin.py")],
            **more,
        }
    }


def printing(**status):
    return f"print(json.dumps({{'kind': 'ExecCredential', 'status': {status!r}}}))"


def test_a_token_a_namespace_and_an_authority(tmp_path):
    (tmp_path / "ca.crt").write_bytes(b"authority")
    file = config(
        tmp_path,
        cluster={"certificate-authority": "ca.crt", "tls-server-name": "api"},
        contexts=[{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ours"}}],
    )
    access = find_access(file)
    assert (access.server, access.namespace, access.server_name) == (SERVER, "ours", "api")
    assert access.authority == b"authority"
    assert access.credentials.current() == ("t", b"", b"")
    assert not access.credentials.forget()


def test_a_certificate_is_taken_from_the_file_or_from_data(tmp_path):
    (tmp_path / "me.crt").write_bytes(b"certificate")
    key = base64.b64encode(b"key").decode()
    access = find_access(config(tmp_path, user={"client-certificate": "me.crt", "client-key-data": key}))
    assert access.credentials.current() == ("", b"certificate", b"key")


def test_the_first_of_several_files_decides(tmp_path):
    (tmp_path / "other").mkdir()
    one = config(tmp_path, name="one", users=[])
    two = config(tmp_path / "other", user={"tokenFile": "token"}, cluster={"server": "https://two"})
    (tmp_path / "other" / "token").write_text("of two\n")
    found = find_access(environment={"KUBECONFIG": os.pathsep.join([str(one), str(two)])})
    assert found.server == SERVER
    assert found.credentials.current()[0] == "of two"
    assert access_of([two, one]).server == "https://two"


def test_a_pod_reads_its_token_again(tmp_path, monkeypatch):
    for name, content in (("token", "first"), ("namespace", "mine"), ("ca.crt", "ca")):
        (tmp_path / name).write_text(content)
    where = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = find_access(environment=where, account=tmp_path)
    assert (access.server, access.namespace) == ("https://[fd00::1]:443", "mine")
    assert access.credentials.current()[0] == "first"
    (tmp_path / "token").write_text("second")
    assert access.credentials.current()[0] == "first"
    assert access.credentials.forget()
    assert access.credentials.current()[0] == "second"
    monkeypatch.setattr("hooke.kubernetes.kubeconfig.TOKEN_FILE_S", 0.0)
    again = pod_access(where, tmp_path)
    again.credentials.current()
    (tmp_path / "token").write_text("third")
    assert again.credentials.current()[0] == "third"


def test_a_plug_in_is_asked_once_while_its_credential_is_good(tmp_path):
    ends = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).isoformat()
    code = f"open({str(tmp_path / 'calls')!r}, 'a').write('x')\n" + printing(
        token="p", expirationTimestamp=ends
    )
    access = find_access(config(tmp_path, user=plugin(tmp_path, code)))
    for _ in range(3):
        assert access.credentials.current()[0] == "p"
    assert (tmp_path / "calls").read_text() == "x"
    assert access.credentials.forget()
    access.credentials.current()
    assert (tmp_path / "calls").read_text() == "xx"


def test_a_credential_that_ends_is_asked_for_again(tmp_path):
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)).isoformat()
    code = f"open({str(tmp_path / 'calls')!r}, 'a').write('x')\n" + printing(
        token="p", expirationTimestamp=soon
    )
    access = find_access(config(tmp_path, user=plugin(tmp_path, code)))
    for _ in range(2):
        access.credentials.current()
    assert (tmp_path / "calls").read_text() == "xx"


def test_a_plug_in_is_told_of_the_cluster_and_of_its_environment(tmp_path):
    code = """
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
told = [info["apiVersion"], info["spec"]["interactive"], info["spec"]["cluster"]["server"], os.environ["REGION"]]
print(json.dumps({"status": {"token": json.dumps(told)}}))
"""
    user = plugin(tmp_path, code, provideClusterInfo=True, env=[{"name": "REGION", "value": "north"}])
    token = find_access(config(tmp_path, user=user)).credentials.current()[0]
    assert json.loads(token) == ["client.authentication.k8s.io/v1", False, SERVER, "north"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("sys.exit('log in first')", "log in first"),
        ("sys.exit(3)", "it ended with 3"),
        ("print('hello')", "no ExecCredential"),
        ("print(json.dumps({'status': {}}))", "neither a token nor a certificate"),
    ],
)
def test_a_plug_in_that_gives_nothing_says_why(tmp_path, code, why):
    access = find_access(config(tmp_path, user=plugin(tmp_path, code)))
    with pytest.raises(UsageError, match="gave no credentials") as caught:
        access.credentials.current()
    assert why in caught.value.why


def test_a_plug_in_that_is_not_installed_gives_its_hint(tmp_path):
    user = plugin(tmp_path, "", installHint="apt install it") | {}
    user["exec"]["command"] = "no-such-plug-in"
    with pytest.raises(UsageError) as caught:
        find_access(config(tmp_path, user=user)).credentials.current()
    assert caught.value.fix == "apt install it"


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"cluster": {"server": "http://10.0.0.1"}}, "cannot be used"),
        ({"cluster": {"proxy-url": "http://proxy"}}, "cannot be used"),
        ({"user": {"auth-provider": {"name": "gcp"}}}, "removed in 1.26"),
        ({"user": {"exec": {"apiVersion": "v1", "command": "x"}}}, "speaks 'v1'"),
        ({"user": {"client-certificate-data": "%"}}, "no base64"),
        ({"user": {"client-certificate": "gone"}}, "cannot be read"),
        ({"users": []}, "no user 'u'"),
        ({"contexts": []}, "no context 'x'"),
        ({"current-context": ""}, "names no context"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, facts, says):
    with pytest.raises(UsageError, match=says):
        find_access(config(tmp_path, **facts))


def test_no_access_says_where_it_was_sought(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no access to a Kubernetes cluster"):
        find_access(environment={})
    (tmp_path / ".kube").mkdir()
    config(tmp_path / ".kube")
    assert find_access(environment={}).server == SERVER
    (tmp_path / "text").write_text("[1")
    with pytest.raises(UsageError, match="no YAML"):
        find_access(tmp_path / "text")


def test_acting_as_another_is_said_in_each_request(tmp_path):
    access = find_access(config(tmp_path, user={"token": "t", "as": "her", "as-groups": ["hers"]}))
    assert access.credentials.headers == {"Impersonate-User": "her", "Impersonate-Group": "hers"}


def test_a_connection_is_lost_where_the_other_machine_is_silent_for_half_a_minute():
    import socket
    import ssl

    from hooke.kubernetes.client import _Connection

    class Plain(ssl.SSLContext):
        def wrap_socket(self, sock, **_):
            return sock

    context = Plain(ssl.PROTOCOL_TLS_CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = _Connection(server.getsockname()[:2], context, "", 30.0)
        connection.connect()
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        idle_s, every_s, times, timeout_ms = (
            connection.sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names
        )
        connection.close()
    assert idle_s + every_s * times == 30
    assert timeout_ms == 30_000
