"""Files that each start needs: fetched once for a machine, in one piece or several, and read from its disk by all."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.small_disk import mount_tmpfs
from tests.support.object_server import ObjectServer

import hooke
from hooke.base.errors import HookeError, UsageError

CHILD = """
import sys
import hooke
from hooke.data import weights as module
module.PART_BYTES, module.SYNC_BYTES = 1 << 20, 2 << 20
print(hooke.weights(sys.argv[1], cache=sys.argv[2]), flush=True)
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("objects") / "bucket"
    folder.mkdir()
    chance = np.random.default_rng(1)
    save_file({"layer": chance.normal(size=(1024, 2000)).astype(np.float32)}, folder / "model.safetensors")
    with ObjectServer(folder.parent) as server:
        yield folder, server


@pytest.fixture
def server(bucket):
    made = bucket[1]
    made.served()
    yield made
    made.set(cut=0, refuse=False)


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def child(url, cache, **more):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(cache)], stdout=subprocess.PIPE, text=True, **more
    )


@pytest.mark.needs("cpu")
def test_the_second_start_reads_from_the_disk(bucket, server, tmp_path):
    from safetensors.numpy import load_file

    origin = bucket[0] / "model.safetensors"
    url = f"{server.url}/bucket/model.safetensors"
    first = hooke.weights(url, cache=tmp_path)
    assert first.name == "model.safetensors"
    assert first.read_bytes() == origin.read_bytes()
    assert load_file(first)["layer"].shape == (1024, 2000)
    assert sum(high - low for low, high in server.served()) == origin.stat().st_size
    assert hooke.weights(url, cache=tmp_path) == first
    assert server.served() == []
    assert not os.access(first, os.W_OK) or os.geteuid() == 0


def test_with_its_digest_nobody_is_asked_when_it_is_there(bucket, server, tmp_path):
    url = f"{server.url}/bucket/model.safetensors"
    wanted = digest_of(bucket[0] / "model.safetensors")
    first = hooke.weights(url, sha256=wanted, cache=tmp_path)
    server.set(refuse=True)
    assert hooke.weights(url, sha256=wanted, cache=tmp_path) == first
    with pytest.raises(HookeError):
        hooke.weights(url, cache=tmp_path)


def test_a_wrong_digest_leaves_nothing(server, tmp_path):
    url = f"{server.url}/bucket/model.safetensors"
    with pytest.raises(UsageError, match="another digest"):
        hooke.weights(url, sha256="0" * 64, cache=tmp_path)
    assert not [each for each in tmp_path.rglob("*") if each.is_file() and each.name != "lock"]
    with pytest.raises(UsageError, match="is not a SHA-256"):
        hooke.weights(url, sha256="abc", cache=tmp_path)


@pytest.mark.needs("cpu")
def test_a_fetch_that_was_killed_goes_on_where_it_was(bucket, tmp_path):
    origin = bucket[0] / "model.safetensors"
    with ObjectServer(bucket[0].parent, delay_s=0.3) as slow:
        url = f"{slow.url}/bucket/model.safetensors"
        killed = child(url, tmp_path)
        end = time.monotonic() + 60
        while not any(int(each.read_text() or 0) for each in tmp_path.rglob("progress")):
            assert time.monotonic() < end
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        had = sum(each.stat().st_size for each in tmp_path.rglob("partial"))
        assert had, "it was killed in the middle"
        slow.served()
        again = child(url, tmp_path)
        said, _ = again.communicate(timeout=60)
        assert Path(said.strip()).read_bytes() == origin.read_bytes()
        assert 0 < sum(high - low for low, high in slow.served()) < origin.stat().st_size


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_processes_of_a_machine_fetch_it_once(bucket, server, tmp_path):
    url = f"{server.url}/bucket/model.safetensors"
    children = [child(url, tmp_path) for _ in range(3)]
    paths = {each.communicate(timeout=60)[0] for each in children}
    assert len(paths) == 1
    assert (
        sum(high - low for low, high in server.served()) == (bucket[0] / "model.safetensors").stat().st_size
    )


def test_answers_that_are_cut_are_asked_for_again(bucket, server, tmp_path):
    server.set(cut=1)
    made = hooke.weights(f"{server.url}/bucket/model.safetensors", cache=tmp_path)
    assert made.read_bytes() == (bucket[0] / "model.safetensors").read_bytes()


def test_what_was_written_anew_is_fetched_anew(bucket, server, tmp_path):
    other = bucket[0] / "other.bin"
    url = f"{server.url}/bucket/other.bin"
    other.write_bytes(random.Random(1).randbytes(1000))
    first = hooke.weights(url, cache=tmp_path)
    other.write_bytes(random.Random(2).randbytes(2000))
    second = hooke.weights(url, cache=tmp_path)
    assert (first.stat().st_size, second.stat().st_size) == (1000, 2000)


@contextmanager
def plain_server(data, headers, *, says_size=True):
    """A server of one object without an ETag, whose bytes and headers may change. Yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            low, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = bytes(data)[int(low) : int(last) + 1 if last else None]
            self.send_response(206 if "range" in self.headers else 200)
            for name, value in headers.items():
                self.send_header(name, value)
            if says_size:
                self.send_header("content-length", str(len(part)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(part)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/model.bin"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["Last-Modified", "Content-MD5", "Digest"])
def test_without_an_etag_other_headers_tell_that_it_was_written_anew(tmp_path, name):
    data, headers = bytearray(b"old weights"), {name: "1"}
    with plain_server(data, headers) as url:
        assert hooke.weights(url, cache=tmp_path).read_bytes() == b"old weights"
        data[:], headers[name] = b"new weights", "2"
        assert hooke.weights(url, cache=tmp_path).read_bytes() == b"new weights"


@pytest.mark.needs("cpu")
def test_where_nothing_tells_versions_apart_the_digest_is_asked_for(tmp_path):
    data = b"some weights"
    with plain_server(data, {}) as url:
        with pytest.raises(UsageError, match="written anew") as refused:
            hooke.weights(url, cache=tmp_path)
        assert "sha256=" in refused.value.fix
        assert (
            hooke.weights(url, cache=tmp_path, sha256=hashlib.sha256(data).hexdigest()).read_bytes() == data
        )


@pytest.mark.needs("cpu")
def test_a_server_that_does_not_say_the_size_is_refused(tmp_path):
    with (
        plain_server(b"some weights", {"Last-Modified": "1"}, says_size=False) as url,
        pytest.raises(UsageError, match=r"the size of .* is not known"),
    ):
        hooke.weights(url, cache=tmp_path)


@pytest.mark.needs("cpu")
def test_a_kill_at_the_end_of_a_fetch_leaves_no_part_that_cannot_be_opened(server, tmp_path):
    url = f"{server.url}/bucket/model.safetensors"
    dies = f"import os, pathlib\npathlib.Path.chmod = lambda *_: os._exit(9)\n{CHILD}"
    killed = subprocess.run([sys.executable, "-c", dies, url, str(tmp_path)], timeout=60, check=False)
    assert killed.returncode == 9
    assert not list(tmp_path.rglob("partial"))
    server.served()
    assert hooke.weights(url, cache=tmp_path).is_file()
    assert server.served() == []


def test_files_of_this_machine_stay_where_they_are(bucket, tmp_path):
    origin = bucket[0] / "model.safetensors"
    assert hooke.weights(origin, sha256=digest_of(origin)) == origin
    with pytest.raises(UsageError, match="another digest"):
        hooke.weights(origin, sha256="0" * 64)
    with pytest.raises(UsageError, match="there is no file"):
        hooke.weights(tmp_path / "none")


def test_an_object_that_is_not_there_is_named(server, tmp_path):
    with pytest.raises(UsageError, match="there is no http"):
        hooke.weights(f"{server.url}/bucket/none", cache=tmp_path)


def test_a_disk_without_room_is_named_with_what_is_needed(bucket, server, tmp_path):
    with (
        mount_tmpfs(tmp_path / "small", "2M") as folder,
        pytest.raises(HookeError, match="there is no room for a copy") as full,
    ):
        hooke.weights(f"{server.url}/bucket/model.safetensors", cache=folder)
    assert "7.81 MiB are needed" in full.value.why
