"""Where the API server is and who we are there: from a kubeconfig file, or from a pod's own service account."""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import os
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hooke.base.errors import UsageError
from hooke.base.yaml_text import parse_yaml

__all__ = ["Access", "Credentials", "access_of", "find_access", "pod_access"]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account's token."""

TOKEN_FILE_S = 60.0
"""A token file is read again after this time: the kubelet replaces tokens of pods long before they end."""
EXPIRES_S = 30.0
"""A credential that ends so soon is not used any more."""
PLUGIN_S = 60.0
_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


@dataclass(slots=True)
class Credentials:
    """How this process proves who it is: a certificate, a token, or what a program prints. Thread-safe."""

    token: str = ""
    token_file: Path | None = None
    certificate: bytes = b""
    key: bytes = b""
    plugin: Mapping[str, Any] = field(default_factory=dict)
    """The `exec` part of a kubeconfig's user."""
    cluster: Mapping[str, Any] = field(default_factory=dict)
    """What a plug-in is told about the cluster, where it asks for that."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Whom to act as (`as` in a kubeconfig)."""
    _good_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def current(self) -> tuple[str, bytes, bytes]:
        """Token, certificate and key as they are now; empty where there is none. Raises UsageError where the plug-in gives none."""
        with self._lock:
            if time.time() >= self._good_until:
                if self.token_file is not None:
                    self.token = _read(self.token_file, "token").decode().strip()
                    self._good_until = time.time() + TOKEN_FILE_S
                elif self.plugin:
                    self._run_plugin()
            return self.token, self.certificate, self.key

    def forget(self) -> bool:
        """The server does not accept them: get them anew the next time. False where they would be the same."""
        with self._lock:
            self._good_until = 0.0
        return bool(self.plugin or self.token_file)

    def _run_plugin(self) -> None:
        status = _plugin_status(self.plugin, self.cluster)
        self.token = str(status.get("token", ""))
        self.certificate = str(status.get("clientCertificateData", "")).encode()
        self.key = str(status.get("clientKeyData", "")).encode()
        ends = status.get("expirationTimestamp")
        self._good_until = float("inf")
        if ends:
            self._good_until = datetime.datetime.fromisoformat(str(ends)).timestamp() - EXPIRES_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An API server, and who we are there."""

    server: str
    """`https://HOST:PORT`, perhaps with a path."""
    credentials: Credentials
    namespace: str = "default"
    authority: bytes = b""
    """The certificates in PEM that the server's is verified by; empty: those that the system trusts."""
    server_name: str = ""
    """The name in the server's certificate, where it is not that of the address."""
    verified: bool = True

    def context(self, certificate: bytes, key: bytes) -> ssl.SSLContext:
        """TLS towards the server, with this certificate of ours if there is one. Raises UsageError for what is no certificate."""
        try:
            made = ssl.create_default_context(cadata=self.authority.decode() or None)
            if not self.verified:
                made.check_hostname = False
                made.verify_mode = ssl.CERT_NONE
            if certificate:
                _load(made, certificate, key)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(
                f"the certificates for {self.server} cannot be read",
                why=str(error),
                fix="get a new kubeconfig from the cluster's administrator",
            ) from error
        return made


def find_access(
    config: str | Path | None = None,
    *,
    context: str = "",
    environment: Mapping[str, str] = os.environ,
    account: Path = ACCOUNT,
) -> Access:
    """The access of `config`; else of KUBECONFIG, of the pod that this process runs in, or of ~/.kube/config.

    Raises UsageError where none of these is there, or it is not valid.
    """
    if config is not None:
        return access_of([Path(config).expanduser()], context=context)
    if named := [Path(each) for each in environment.get("KUBECONFIG", "").split(os.pathsep) if each]:
        return access_of(named, context=context)
    if environment.get("KUBERNETES_SERVICE_HOST") and (account / "token").is_file():
        return pod_access(environment, account)
    usual = Path.home() / ".kube" / "config"
    if usual.is_file():
        return access_of([usual], context=context)
    raise UsageError(
        "there is no access to a Kubernetes cluster",
        why=f"KUBECONFIG is not set, {usual} does not exist, and this is not a pod with a service account",
        fix="set KUBECONFIG to the file that the cluster's administrator gave you",
    )


def pod_access(environment: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> Access:
    """That of the pod that this process runs in, as its service account. Raises UsageError."""
    host = environment["KUBERNETES_SERVICE_HOST"]
    host = f"[{host}]" if ":" in host else host
    return Access(
        server=f"https://{host}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}",
        credentials=Credentials(token_file=account / "token"),
        namespace=_read(account / "namespace", "namespace").decode().strip(),
        authority=_read(account / "ca.crt", "certificate"),
    )


def access_of(files: Sequence[Path], *, context: str = "") -> Access:
    """That of a context of kubeconfig files, by default the current one. In several files, the first to name a thing decides.

    Raises UsageError where it is not there or not valid.
    """
    known: dict[str, dict[str, tuple[dict[str, Any], Path]]] = {"clusters": {}, "users": {}, "contexts": {}}
    current = context
    for file in files:
        parsed = _parsed(file)
        current = current or str(parsed.get("current-context") or "")
        for kind, found in known.items():
            for each in parsed.get(kind) or ():
                found.setdefault(str(each["name"]), (each.get(kind[:-1]) or {}, file.parent))
    where = ", ".join(str(file) for file in files)
    chosen, _ = _named(known["contexts"], current, "context", where)
    cluster, beside_cluster = _named(known["clusters"], str(chosen.get("cluster", "")), "cluster", where)
    user, beside_user = _named(known["users"], str(chosen.get("user", "")), "user", where)
    server = str(cluster.get("server", ""))
    if urlsplit(server).scheme != "https" or cluster.get("proxy-url"):
        raise UsageError(
            f"the cluster's server {server!r} cannot be used",
            where=where,
            why="only https:// without a proxy is supported: everything else could be read on the way",
        )
    authority = _data(cluster, "certificate-authority", beside_cluster)
    return Access(
        server=server.rstrip("/"),
        credentials=_credentials(user, beside_user, cluster, authority, where),
        namespace=str(chosen.get("namespace") or "default"),
        authority=authority,
        server_name=str(cluster.get("tls-server-name") or ""),
        verified=not cluster.get("insecure-skip-tls-verify"),
    )


# -- inside ----------------------------------------------------------------------------------------


def _credentials(
    user: dict[str, Any], beside: Path, cluster: dict[str, Any], authority: bytes, where: str
) -> Credentials:
    if "auth-provider" in user:
        raise UsageError(
            "the kubeconfig's user has an `auth-provider`, which Kubernetes removed in 1.26",
            where=where,
            fix="write the kubeconfig anew with the provider's exec plug-in, as kubectl needs it too",
        )
    headers = {"Impersonate-User": str(user["as"])} if user.get("as") else {}
    groups = [str(each) for each in user.get("as-groups") or ()]
    if len(groups) > 1:
        raise UsageError("a kubeconfig's `as-groups` may have one group", where=where)
    if groups:
        headers["Impersonate-Group"] = groups[0]
    plugin = dict(user.get("exec") or {})
    if plugin and plugin.get("apiVersion") not in _EXEC_VERSIONS:
        raise UsageError(
            f"the kubeconfig's exec plug-in speaks {plugin.get('apiVersion')!r}",
            where=where,
            fix=f"write one of: {', '.join(_EXEC_VERSIONS)}, if the plug-in knows it; else install a newer one",
        )
    if plugin and os.sep in str(plugin.get("command", "")):
        plugin["command"] = str(beside / str(plugin["command"]))
    file = user.get("tokenFile")
    return Credentials(
        token=str(user.get("token") or ""),
        token_file=beside / str(file) if file else None,
        certificate=_data(user, "client-certificate", beside),
        key=_data(user, "client-key", beside),
        plugin=plugin,
        cluster={
            "server": cluster.get("server"),
            "certificate-authority-data": base64.b64encode(authority).decode(),
            "tls-server-name": cluster.get("tls-server-name") or "",
            "insecure-skip-tls-verify": bool(cluster.get("insecure-skip-tls-verify")),
        },
        headers=headers,
    )


def _plugin_status(plugin: Mapping[str, Any], cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Run it as client.authentication.k8s.io says, without a terminal to ask on. Raises UsageError."""
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = {key: value for key, value in cluster.items() if value}
    info = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": spec}
    environment = {each["name"]: each["value"] for each in plugin.get("env") or ()}
    command = [str(plugin.get("command", "")), *(str(each) for each in plugin.get("args") or ())]
    what = f"the kubeconfig's plug-in {command[0]} gave no credentials"
    if plugin.get("interactiveMode") == "Always":
        raise UsageError(what, why="it must ask on a terminal", fix="log in with kubectl first")
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PLUGIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        hint = str(plugin.get("installHint") or "install it, or put it into PATH")
        raise UsageError(what, why=str(error), fix=hint) from error
    complaint = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        raise UsageError(what, why=complaint or f"it ended with {done.returncode}")
    try:
        status: dict[str, Any] = json.loads(done.stdout)["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(what, why="what it printed is no ExecCredential with a status") from error
    if not status.get("token") and not status.get("clientCertificateData"):
        raise UsageError(what, why="it printed neither a token nor a certificate")
    return status


def _parsed(file: Path) -> dict[str, Any]:
    try:
        parsed = parse_yaml(_read(file, "kubeconfig"))
    except ValueError as error:
        raise UsageError("the kubeconfig is no YAML", where=str(file), why=str(error)) from error
    if not isinstance(parsed, dict):
        raise UsageError("the kubeconfig has no clusters, users and contexts", where=str(file))
    return parsed


def _named(
    found: Mapping[str, tuple[dict[str, Any], Path]], name: str, kind: str, where: str
) -> tuple[dict[str, Any], Path]:
    if name not in found:
        what = f"the kubeconfig has no {kind} {name!r}" if name else f"the kubeconfig names no {kind}"
        raise UsageError(what, where=where, fix=f"there are: {', '.join(found) or 'none'}")
    return found[name]


def _data(of: Mapping[str, Any], key: str, beside: Path) -> bytes:
    """What `key-data` has, or the file that `key` names."""
    if text := of.get(f"{key}-data"):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError) as error:
            raise UsageError(f"{key}-data of the kubeconfig is no base64", why=str(error)) from error
    return _read(beside / str(of[key]), key) if of.get(key) else b""


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"the {what} cannot be read", where=str(file), why=str(error.strerror)) from error


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Python reads certificates of ours from files alone; this one is gone when it was read."""
    with tempfile.NamedTemporaryFile(prefix="hooke-") as file:  # readable by this user alone
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)
