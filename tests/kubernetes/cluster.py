"""A real Kubernetes cluster for tests, in namespaces of its own: nothing of it has a name outside.

    with Cluster(nodes=1) as cluster:
        cluster.kubeconfig   # for clients of this process: an address of the loopback

The control plane and each node are hosts of `tests.support.hosts`, so a node can be cut off, frozen or killed like any
host, and all of it ends with this process. Only the control groups of pods have names outside: the end removes them,
and the next start those of a process that was killed.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import ipaddress
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.kubernetes import build, images
from tests.support.hosts import Host, Hosts

__all__ = ["Cluster", "NotStarted"]

READY_S = 120.0
"""A cluster is ready within 30 s on two cores; a machine that others use as well may need longer."""
DISK_BYTES = 2 << 30
"""Of each host, in memory and only where it is used: images and what containers write."""
SERVICES = "10.79.0.0/16"
API_SERVICE = "10.79.0.1"
DOMAIN = "cluster.local"
GROUP = "hooke-kubernetes"
"""How the names of its control groups begin."""
GROUPS = Path("/sys/fs/cgroup")
EMPTIED_S = 10.0

_NUMBERS = itertools.count(1)
"""Of the clusters of this process: each has control groups of its own."""
_HOLD = Path("/tmp/kubernetes")
"""Where the files of a host lie, on its own disk."""
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet sets, for the whole machine: here it finds files in their place that say that all is set."""


class NotStarted(Exception):
    """The cluster did not start: which part, and the end of its log."""


class _Authority:
    """Signs the certificates of one cluster."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes-for-tests")])
        made = self._builder(self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pem = _pem(made.sign(self._key, hashes.SHA256()))

    def signed(self, name: str, group: str = "", *, at: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """Certificate and key of a user, or of a server `at` these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        parts += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
        made = self._builder(x509.Name(parts), key.public_key())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        made = made.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if at:
            made = made.add_extension(
                x509.SubjectAlternativeName([_general(each) for each in at]), critical=False
            )
        return _pem(made.sign(self._key, hashes.SHA256())), _key_pem(key)

    def _builder(self, name: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
            now + datetime.timedelta(days=2)
        )


def _general(text: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Cluster:
    """A control plane and `nodes` nodes, which share this machine's cores and memory. Leaving it ends all of it."""

    def __init__(self, *, nodes: int = 1, silent_s: int = 0, rate: int = 0, audited: str = "") -> None:
        """`silent_s`: a node that says nothing for so long is not ready; 0: as is the default, 50.

        `rate`: requests a second that the controllers and the scheduler may make, each; 0: as is the default, 20 and 50.
        `audited`: a user whose requests are in the file `audit`. Raises NotStarted, and CannotBuild where its programs are not built.
        """
        self._silent_s, self._rate, self._audited = silent_s, rate, audited
        self._programs = build.folder()
        if not self._programs.is_dir():
            raise build.CannotBuild("Kubernetes is not built; next: make kubernetes")
        if reason := build.why_not():
            raise build.CannotBuild(reason)
        sweep()
        self._folder = Path(tempfile.mkdtemp(prefix="hooke-kubernetes-"))
        self._group = f"{GROUP}-{os.getpid()}-{next(_NUMBERS)}"
        self.logs = self._folder / "logs"
        self.logs.mkdir()
        self.lan = Hosts(disk_bytes=DISK_BYTES, keep=[self._programs, self._folder])
        self.nodes: dict[str, Host] = {}
        self._running: dict[str, subprocess.Popen[Any]] = {}
        self._starts: dict[str, Callable[[], subprocess.Popen[Any]]] = {}
        try:
            self._start(nodes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what tests use ----------------------------------------------------------------------------

    @property
    def control_address(self) -> str:
        """Where its nodes find the API server, at port 6443."""
        return self._control.address

    def config(self, name: str, group: str = "", *, server: str = "") -> str:
        """A kubeconfig of a new user, who finds the API server at `server`: by default as this process does."""
        certificate, key = self._authority.signed(name, group)
        return _kubeconfig(server or self.server, self._authority.pem, certificate, key)

    def write_config(self, name: str) -> Path:
        """A file with the kubeconfig of a new user, for this process."""
        file = self._folder / f"{name}.yaml"
        file.touch(mode=0o600)
        file.write_text(self.config(name))
        return file

    def get(self, path: str) -> dict[str, Any]:
        """What the API server answers to its administrator, in this process."""
        return json.loads(self._asked("GET", path))

    def create(self, path: str, manifest: Mapping[str, Any]) -> None:
        """Create an object, as its administrator."""
        self._asked("POST", path, json.dumps(manifest).encode())

    @property
    def audit(self) -> Path:
        """A line of JSON for each request of the user that is audited."""
        return self._control.path(_HOLD / "audit.jsonl")

    def metrics(self) -> str:
        """What the API server tells Prometheus."""
        return self._asked("GET", "/metrics").decode()

    def log(self, program: str) -> str:
        """What a program wrote."""
        return (self.logs / f"{program}.log").read_text(errors="replace")

    def simulate(self, nodes: int, labels: Mapping[str, str]) -> None:
        """Add so many nodes with eight cores each that nobody runs: kwok plays them. Returns when all are ready."""
        host = self._control
        config = self._config_at(host, "kwok", "system:masters")
        stages = self._put(host, "kwok.yaml", (Path(__file__).parent / "kwok" / "stages.yaml").read_text())
        self._run(host, "kwok", f"--kubeconfig={config}", f"--config={stages}")
        has = {"cpu": "8", "memory": "32Gi", "pods": "110"}
        for number in range(nodes):
            about = {"name": f"simulated-{number}", "labels": dict(labels)}
            status = {"allocatable": has, "capacity": has}
            self.create("/api/v1/nodes", {"metadata": about, "status": status})
        self.await_that(f"{nodes} simulated nodes are ready", lambda: self._ready_nodes() == nodes)

    def host(self, name: str) -> Host:
        """Another host beside the control plane, for clients: they reach the API server at `inside`, with nothing in between."""
        return self.lan.start(name)

    def kill(self, program: str) -> None:
        """End a program of the control plane at once: `etcd`, `kube-apiserver`."""
        self._control.end(self._running.pop(program))

    def start(self, program: str) -> None:
        """Start it again, as it was. Returns when the API server answers."""
        self._running[program] = self._starts[program]()
        self.await_that("the API server is ready", self._api_ready)

    def freeze(self, program: str) -> None:
        """Stop a program of the control plane (SIGSTOP): it takes connections, and answers nothing."""
        self._signal(program, signal.SIGSTOP)

    def thaw(self, program: str) -> None:
        """Let it go on."""
        self._signal(program, signal.SIGCONT)
        self._running[program].send_signal(signal.SIGCONT)  # what entered the host stops with it

    def pid(self, program: str) -> int:
        """The process of a program of the control plane."""
        (process,) = psutil.Process(self._running[program].pid).children()
        return process.pid

    def forget_versions(self) -> None:
        """Have etcd drop all versions of all objects but the last."""
        revision = self._etcd("range", {"key": _base64(b"/")})["header"]["revision"]
        self._etcd("compaction", {"revision": revision, "physical": True})

    def await_that(self, what: str, holds: Callable[[], object], *, within_s: float = READY_S) -> None:
        """Raises NotStarted where it does not hold in time, or a program ended meanwhile."""
        until = time.monotonic() + within_s
        while not holds():
            for program, process in self._running.items():
                if process.poll() is not None:
                    raise NotStarted(
                        f"{program} ended with {process.returncode}\n{self.log(program)[-3000:]}"
                    )
            if time.monotonic() > until:
                raise NotStarted(f"within {within_s:g} s: {what}; logs: {self.logs}")
            time.sleep(0.1)

    def close(self) -> None:
        """End all of it, and remove what it left; idempotent."""
        self.lan.close()
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()
        for node in self.nodes:
            remove_groups(f"{self._group}-{node}")
        subprocess.run(["rm", "-rf", str(self._folder)], check=True)

    # -- inside ------------------------------------------------------------------------------------

    def _start(self, nodes: int) -> None:
        self._authority = _Authority()
        self._control = self.lan.start("control")
        self.inside = f"https://{self._control.address}:6443"
        listener = socket.create_server(("127.0.0.1", 0))
        self.server = f"https://127.0.0.1:{listener.getsockname()[1]}"
        self.kubeconfig = self._folder / "kubeconfig"
        self._tls = ssl.create_default_context(cadata=self._authority.pem.decode())
        certificate, key = self._authority.signed("admin", "system:masters")
        (self._folder / "admin.crt").write_bytes(certificate)
        (self._folder / "admin.key").write_bytes(key)
        self._tls.load_cert_chain(self._folder / "admin.crt", self._folder / "admin.key")
        self.kubeconfig.write_text(self.config("admin", "system:masters"))
        self.kubeconfig.chmod(0o600)
        self._relay(listener)
        self._start_api_server()
        for number in range(1, nodes + 1):
            self._prepare_node(f"node{number}", number, nodes)
        imported = [self._import_images(node) for node in self.nodes.values()]
        self.await_that("the API server is ready", self._api_ready)
        self._start_controllers()
        for process in imported:
            if process.wait() != 0:
                raise NotStarted(f"images were not imported\n{self.log('import')}")
        for name in self.nodes:
            self._start_node(name)
        self._start_dns()
        self.await_that("all nodes are ready", self._nodes_ready)

    def _relay(self, listener: socket.socket) -> None:
        command = ["nsenter", f"--target={self._control.pid}", "--net", "--", sys.executable]
        command += [
            str(Path(__file__).with_name("relay.py")),
            str(listener.fileno()),
            self._control.address,
            "6443",
        ]
        with (self.logs / "relay.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()]
            )
        self._running["relay"] = process
        listener.close()

    def _run(self, host: Host, program: str, *options: str, env: Mapping[str, str] | None = None) -> None:
        path = program if program == "containerd" else str(self._programs / program)
        named = program if host.name == "control" else f"{host.name}-{program}"

        def start() -> subprocess.Popen[Any]:
            with (self.logs / f"{named}.log").open("ab") as log:
                return host.popen([path, *options], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        self._starts[named] = start
        self._running[named] = start()

    def _put(self, host: Host, name: str, content: str | bytes) -> str:
        inside = _HOLD / name
        at = host.path(inside)
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(inside)

    def _signed(self, host: Host, user: str, group: str = "", *, at: Sequence[str] = ()) -> tuple[str, str]:
        certificate, key = self._authority.signed(user, group, at=at)
        return self._put(host, f"{user}.crt", certificate), self._put(host, f"{user}.key", key)

    def _config_at(self, host: Host, user: str, group: str = "") -> str:
        return self._put(host, f"{user}.kubeconfig", self.config(user, group, server=self.inside))

    def _start_api_server(self) -> None:
        host = self._control
        self._run(
            host,
            "etcd",
            f"--data-dir={_HOLD}/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        )
        ca = self._put(host, "ca.crt", self._authority.pem)
        names = ["127.0.0.1", self._control.address, API_SERVICE, "kubernetes.default.svc"]
        certificate, key = self._signed(host, "kube-apiserver", at=names)
        client, client_key = self._signed(host, "kube-apiserver-kubelet-client", "system:masters")
        accounts = ec.generate_private_key(ec.SECP256R1())
        public = accounts.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signing = self._put(host, "accounts.key", _key_pem(accounts))
        self._run(
            host,
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={host.address}",
            "--secure-port=6443",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--client-ca-file={ca}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={client_key}",
            f"--kubelet-certificate-authority={ca}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={self._put(host, 'accounts.pub', public)}",
            f"--service-account-signing-key-file={signing}",
            "--service-account-issuer=https://kubernetes.default.svc",
            *self._audit(host),
        )

    def _audit(self, host: Host) -> list[str]:
        if not self._audited:
            return []
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": [self._audited]}, {"level": "None"}],
        }
        file = self._put(host, "audit.yaml", yaml.safe_dump(policy))
        return [f"--audit-policy-file={file}", f"--audit-log-path={_HOLD}/audit.jsonl"]

    def _start_controllers(self) -> None:
        host = self._control
        config = self._config_at(host, "system:kube-controller-manager")
        self._run(
            host,
            "kube-controller-manager",
            f"--kubeconfig={config}",
            f"--root-ca-file={_HOLD}/ca.crt",
            f"--service-account-private-key-file={_HOLD}/accounts.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            *self._rates(),
            *(
                [
                    f"--node-monitor-grace-period={self._silent_s}s",
                    f"--node-monitor-period={1 if self._silent_s < 50 else 5}s",
                ]
                if self._silent_s
                else []
            ),
        )
        config = self._config_at(host, "system:kube-scheduler")
        self._run(
            host,
            "kube-scheduler",
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            *self._rates(),
        )

    def _rates(self) -> list[str]:
        return [f"--kube-api-qps={self._rate}", f"--kube-api-burst={self._rate}"] if self._rate else []

    def _start_dns(self) -> None:
        """CoreDNS, beside the API server, with the rights that it has in every cluster."""
        user = "system:coredns"
        reads = [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ]
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        self.create(f"{rbac}/clusterroles", {"metadata": {"name": user}, "rules": reads})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
        self.create(
            f"{rbac}/clusterrolebindings",
            {"metadata": {"name": user}, "roleRef": role, "subjects": [subject]},
        )
        config = self._config_at(self._control, user)
        zones = f"{DOMAIN} in-addr.arpa ip6.arpa"
        corefile = f".:53 {{\n errors\n kubernetes {zones} {{\n  kubeconfig {config}\n  ttl 1\n }}\n}}\n"
        self._run(self._control, "coredns", self._put(self._control, "Corefile", corefile))

    def _prepare_node(self, name: str, number: int, nodes: int) -> None:
        host = self.nodes[name] = self.lan.start(name)
        pods = f"10.78.{number}.0/24"
        host.route(pods)
        host.run(["sh", "-ec", _PREPARE])
        for path, value in _SYSCTLS.items():
            at = self._put(host, f"sysctl/{path}", f"{value}\n")
            host.run(["mount", "--bind", at, f"/proc/sys/{path}"])
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            # Not a bridge: pods of one node would answer one another past the rules of Services.
            "plugins": [
                {
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        self._put(host, "cni/pods.conflist", json.dumps(network))
        self._put(host, "containerd.toml", _CONTAINERD)
        self._put(host, "resolv.conf", "")
        self._put(host, "kubelet.yaml", yaml.safe_dump(self._kubelet(host, nodes)))
        self._config_at(host, f"system:node:{name}", "system:nodes")
        self._config_at(host, "system:kube-proxy")
        self._put(host, "proxy.yaml", yaml.safe_dump(_proxy(name)))
        self._run(host, "containerd", f"--config={_HOLD}/containerd.toml")

    def _kubelet(self, host: Host, nodes: int) -> dict[str, Any]:
        group = f"{self._group}-{host.name}"
        for hierarchy in GROUPS.iterdir():
            (hierarchy / group).mkdir(exist_ok=True)
        certificate, key = self._signed(host, "kubelet", at=[host.address, host.name])
        memory, cpus = psutil.virtual_memory().total >> 20, psutil.cpu_count()
        others = (nodes - 1) / nodes
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            # A kubelet speaks up four times as often as this.
            **({"nodeLeaseDurationSeconds": self._silent_s} if self._silent_s else {}),
            "address": host.address,
            "authentication": {"x509": {"clientCAFile": self._put(host, "ca.crt", self._authority.pem)}},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{group}",
            "clusterDNS": [self._control.address],
            "clusterDomain": DOMAIN,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [],
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "makeIPTablesUtilChains": False,
            "nodeStatusUpdateFrequency": "2s",
            "podLogsDir": "/var/log/pods",
            "resolvConf": f"{_HOLD}/resolv.conf",
            # The nodes share one machine: what all may use together is what it has.
            "systemReserved": {"cpu": f"{int(1000 * cpus * others)}m", "memory": f"{int(memory * others)}Mi"},
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            "volumePluginDir": "/var/lib/kubelet/plugins",
        }

    def _import_images(self, host: Host) -> subprocess.Popen[Any]:
        """Before a kubelet asks for them: it would be told of no such image, or of one of another name."""
        pause, root, python = (self._folder / f"{each}.tar" for each in ("pause", "root", "python"))
        if not pause.exists():
            images.write_pause(pause, self._programs / "pause")
            images.write_root(root, self._programs / "pause")
            images.write_python(python)
        ctr = "ctr --address /run/containerd/containerd.sock -n k8s.io"
        waits = f"until {ctr} version >/dev/null 2>&1; do sleep 0.1; done"
        with (self.logs / "import.log").open("ab") as log:
            return host.popen(
                [
                    "sh",
                    "-ec",
                    f"{waits}; for each in {pause} {root} {python}; do {ctr} images import $each; done",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _start_node(self, name: str) -> None:
        host = self.nodes[name]
        self._run(
            host,
            "kubelet",
            f"--config={_HOLD}/kubelet.yaml",
            f"--kubeconfig={_HOLD}/system:node:{name}.kubeconfig",
            f"--hostname-override={name}",
            f"--node-ip={host.address}",
        )
        self._run(host, "kube-proxy", f"--config={_HOLD}/proxy.yaml")

    def _signal(self, program: str, how: int) -> None:
        psutil.Process(self.pid(program)).send_signal(how)

    def _etcd(self, call: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], sys.argv[2].encode()).read().decode())"
        command = [sys.executable, "-c", code, f"http://127.0.0.1:2379/v3/kv/{call}", json.dumps(asked)]
        return json.loads(self._control.run(command))

    def _api_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self._asked("GET", "/readyz") == b"ok"
        return False

    def _nodes_ready(self) -> bool:
        return len(self.nodes) == self._ready_nodes()

    def _ready_nodes(self) -> int:
        return sum(
            condition["status"] == "True"
            for node in self.get("/api/v1/nodes")["items"]
            for condition in node["status"].get("conditions", ())
            if condition["type"] == "Ready"
        )

    def _asked(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """The answer of the API server to its administrator. Raises OSError, or HTTPError for one that is no success."""
        asked = urllib.request.Request(
            self.server + path, content, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(asked, context=self._tls, timeout=10.0) as answer:
            return answer.read()


_PREPARE = f"""
echo 1 > /proc/sys/net/ipv4/ip_forward
mount -t tmpfs none /var/lib
mount -t tmpfs none /var/log
mkdir -p {_HOLD}/cni /var/log/pods /var/lib/kubelet
"""
"""What a node has beyond a host: pods are behind it, and a kubelet writes to fixed places."""

_CONTAINERD = f"""
version = 2
root = "{_HOLD}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "{images.PAUSE}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{_HOLD}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def sweep() -> None:
    """Remove the control groups of clusters whose process was killed."""
    for name in {each.name for each in GROUPS.glob(f"*/{GROUP}-*")}:
        if not psutil.pid_exists(int(name.split("-")[2])):
            remove_groups(name)


def remove_groups(name: str) -> None:
    """Remove a control group and those below it, once their processes have ended."""
    for top in GROUPS.glob(f"*/{name}"):
        for folder, _, _ in os.walk(top, topdown=False):
            _remove_group(Path(folder))


def _remove_group(folder: Path) -> None:
    until = time.monotonic() + EMPTIED_S
    while True:
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _proxy(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{_HOLD}/system:kube-proxy.kubeconfig"},
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "detectLocal": {"interfaceNamePrefix": "veth"},
        "detectLocalMode": "InterfaceNamePrefix",
        "healthzBindAddress": "127.0.0.1:10256",
        "hostnameOverride": name,
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "nftables",
    }


def _kubeconfig(server: str, ca: bytes, certificate: bytes, key: bytes) -> str:
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "tests",
                "cluster": {"server": server, "certificate-authority-data": _base64(ca)},
            }
        ],
        "users": [
            {
                "name": "user",
                "user": {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)},
            }
        ],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
        "current-context": "tests",
    }
    return yaml.safe_dump(made)
