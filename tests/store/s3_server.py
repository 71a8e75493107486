"""A real S3 server on the loopback, in a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

__all__ = ["s3"]


@pytest.fixture(scope="module")
def s3():
    """The URL of an empty bucket; the environment points at its server, for child processes too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        await_answer(settings["AWS_ENDPOINT_URL"])
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("hooke")
        yield "s3://hooke"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def await_answer(url):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no S3 server at {url}")
