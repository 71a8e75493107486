"""An object server in memory, behind fsspec as real ones are, that counts requests and round trips and can take its time."""

import asyncio
import contextlib
import io
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import ClassVar

import fsspec
from fsspec.asyn import AsyncFileSystem

__all__ = ["AtOnce", "CountedFiles", "counted"]

PAGE = 1000
"""Names of one answer to a listing, as with S3."""


class CountedFiles(AsyncFileSystem):
    """Each method is one request of `latency_s`, a listing one for each page. Requests in flight together are one round trip."""

    protocol = "s3a"
    cachable = False
    files: ClassVar = {}
    requests: ClassVar = []
    rounds = 0
    in_flight = 0
    latency_s = 0.0

    @classmethod
    def reset(cls):
        """Count from zero."""
        cls.requests, cls.rounds = [], 0

    @classmethod
    async def request(cls, kind, path, times=1):
        for _ in range(times):
            cls.rounds += not cls.in_flight
            cls.requests.append((kind, path))
            cls.in_flight += 1
            await asyncio.sleep(cls.latency_s)
            cls.in_flight -= 1

    async def _cat_file(self, path, start=None, end=None, **_):
        await self.request("get", path)
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][0][start:end]

    async def _pipe_file(self, path, value, mode="overwrite", **_):
        await self.request("put", path)
        if mode == "create" and path in self.files:
            raise FileExistsError(path)
        self.files[path] = bytes(value), datetime.fromtimestamp(time.time(), UTC)

    async def _info(self, path, **_):
        await self.request("head", path)
        return self._facts(path)

    def _facts(self, path):
        if path not in self.files:
            raise FileNotFoundError(path)
        data, written = self.files[path]
        return {"name": path, "size": len(data), "type": "file", "LastModified": written}

    async def _find(self, path, detail=False, **_):
        found = [name for name in sorted(self.files) if name.startswith(path.rstrip("/") + "/")]
        await self.request("list", path, times=max(1, -(-len(found) // PAGE)))
        return {name: self._facts(name) for name in found if name in self.files} if detail else found

    async def _rm_file(self, path, **_):
        await self.request("delete", path)
        if self.files.pop(path, None) is None:
            raise FileNotFoundError(path)

    async def _rm(self, path, **_):
        await self.request("delete", path)
        for each in [path] if isinstance(path, str) else path:
            self.files.pop(self._strip_protocol(each), None)

    async def _cp_file(self, path1, path2, **_):
        await self.request("copy", path1)
        self.files[path2] = self.files[path1]

    def _open(self, path, mode="rb", **_):
        return io.BytesIO(self.cat_file(path))


@contextlib.contextmanager
def counted(latency_s=0.0):
    """Inside, `s3a://` is an empty server in this process."""
    before = fsspec.registry.get("s3a")
    fsspec.register_implementation("s3a", CountedFiles, clobber=True)
    CountedFiles.files, CountedFiles.latency_s = {}, latency_s
    CountedFiles.reset()
    try:
        yield CountedFiles
    finally:
        fsspec.register_implementation("s3a", before or "s3fs.S3FileSystem", clobber=True)
        CountedFiles.files = {}


class AtOnce:
    """Makes the calls of a scheduler in its own thread, though it takes them for those of others: so that what it asks for is told."""

    def submit(self, call):
        future = Future()
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - the scheduler raises it
            future.set_exception(error)
        return future
