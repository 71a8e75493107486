"""An S3 server for tests: moto in its own process, on the loopback or on another host.

    with S3Server() as s3:
        os.environ.update(s3.environment)
        run(pipeline, store=s3.url)

`python -m hooke.testing.s3_server ADDRESS BUCKET` is that process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from hooke.base.errors import HookeError, MissingExtra
from hooke.processes.start import python_module, with_parent

__all__ = ["S3Host", "S3Server", "main"]

_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class S3Host(Protocol):
    """A machine, or a namespace that stands for one, to start the server on."""

    address: str

    def popen(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[Any]:
        """Start a command there; `how` as for `subprocess.Popen`."""

    def end(self, process: subprocess.Popen[Any]) -> None:
        """End a process that `popen` started."""


class S3Server:
    """A bucket, empty at first, at `url`; `environment` is what its clients need in theirs. All is in memory."""

    def __init__(self, *, on: S3Host | None = None, bucket: str = "hooke") -> None:
        """Start on a free port of the loopback, or of `on`. Raises HookeError if it does not start, as without moto."""
        self.url = f"s3://{bucket}"
        self._host = on
        command = python_module("hooke.testing.s3_server", "127.0.0.1" if on is None else on.address, bucket)
        # Not a pipe: one that nobody reads stops the server once it is full.
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is open as long as the server
        pipes = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": self._complaints,
            "text": True,
        }
        self._process = (
            subprocess.Popen([*with_parent(), *command], env={**os.environ, **_KEYS}, **pipes)
            if on is None
            else on.popen(command, env=_KEYS, **pipes)
        )
        assert self._process.stdout is not None
        endpoint = self._process.stdout.readline().strip()
        if not endpoint:
            self._process.wait()
            self._complaints.seek(0)
            raise HookeError("the S3 server did not start", why=self._complaints.read().strip())
        self.environment = {"AWS_ENDPOINT_URL": endpoint, **_KEYS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server, which drops its content; idempotent."""
        if self._process.poll() is None:
            if self._host is None:
                self._process.kill()
            else:
                self._host.end(self._process)
        self._process.communicate()
        self._complaints.close()


def main(arguments: Sequence[str]) -> None:
    """Serve until the end; print the endpoint once the bucket exists. Raises MissingExtra without moto."""
    try:
        import boto3
        from moto.server import ThreadedMotoServer
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"an S3 server for tests needs {error.name}", fix='pip install "moto[s3,server]"'
        ) from error
    address, bucket = arguments
    server = ThreadedMotoServer(address, 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    sys.stdout.write(f"{endpoint}\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
