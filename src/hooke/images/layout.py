"""The OCI image layout: blobs named by their digest, layers as archives whose bytes depend on what is in them alone.

Specification: OCI image-spec 1.1 (`image-layout`, `manifest`, `config`, `layer`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import msgspec

from hooke.base.errors import CorruptObject, MissingObject, UsageError
from hooke.base.files import replacing, sync_data, write_all, write_atomic, writing

__all__ = [
    "Descriptor",
    "Image",
    "ImageLayout",
    "Inside",
    "architecture",
    "checked_digest",
]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

NAME = "org.opencontainers.image.ref.name"
LEVEL = 6
"""Of gzip: zlib's own default. Level 9 takes twice as long for 1 % less of a wheel's files."""
PIECE = 1 << 20
EPOCH = "1970-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def architecture() -> str:
    """This machine's, as Go and so the specification call it: `amd64` or `arm64`, or as the kernel says."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename={"media_type": "mediaType"}):
    """A blob: its type, its digest (`sha256:` and 64 hex characters) and its size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: dict[str, Any] | None = None

    def raw(self) -> dict[str, Any]:
        """As a manifest has it."""
        made = msgspec.to_builtins(self)
        return {name: value for name, value in made.items() if value is not None}


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in a layer, at `path` (without a leading slash): a file of this machine, given bytes, a link or a folder."""

    path: str
    file: Path | None = None
    content: bytes | None = None
    link: str = ""
    executable: bool = False
    owner: int = 0
    """The number of its user and group, and of the folders above it that are named by nothing else."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a layout: the descriptor of its manifest, its layers and its configuration."""

    manifest: Descriptor
    config: dict[str, Any]
    config_blob: Descriptor
    layers: tuple[Descriptor, ...]


class ImageLayout:
    """A folder with images. Methods raise StoreFull or OSError where the folder can't be written, CorruptObject for damaged blobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> ImageLayout:
        """A layout in `folder`, which is made; one that is there is kept. Raises UsageError for a folder with other things."""
        if folder.exists() and not (folder / "oci-layout").exists() and any(folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty and holds no image", fix="name another folder with --output"
            )
        with writing("the image", folder):
            (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            if not (folder / "index.json").exists():
                write_atomic(folder / "index.json", _json(_index([])))
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> ImageLayout:
        """The layout in `folder`. Raises UsageError where there is none."""
        if not (folder / "oci-layout").is_file():
            raise UsageError(
                f"{folder} holds no image", why="it has no oci-layout file", fix="make one: hooke image build"
            )
        return cls(folder)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises CorruptObject for what is no sha256 digest, which might name another file."""
        return self.folder / "blobs/sha256" / checked_digest(digest)

    def add(self, content: bytes, media_type: str) -> Descriptor:
        """Keep a blob."""
        named = hashlib.sha256(content).hexdigest()
        path = self.path(f"sha256:{named}")
        if not path.exists():
            with writing("the image", path):
                write_atomic(path, content)
        return Descriptor(media_type=media_type, digest=f"sha256:{named}", size=len(content))

    def add_layer(self, files: Iterable[Inside]) -> tuple[Descriptor, str]:
        """Write a layer; returns its blob, and the digest of the archive before compression, which the configuration names."""
        return self._compressed(lambda out: _write_entries(out, files))

    def add_archive(self, archive: Path) -> tuple[Descriptor, str]:
        """As `add_layer`, of a tar archive that is there."""

        def copy(out: _Hashed) -> None:
            with archive.open("rb") as read:
                while piece := read.read(PIECE):
                    out.write(piece)

        return self._compressed(copy)

    def add_from(self, other: ImageLayout, image: Image) -> Image:
        """Take an image of another layout, its blobs checked. Raises MissingObject or CorruptObject."""
        for blob in (image.manifest, image.config_blob, *image.layers):
            target = self.path(blob.digest)
            if target.exists():
                continue
            try:
                read = other.path(blob.digest).open("rb")
            except FileNotFoundError:
                raise MissingObject(
                    f"the image in {other.folder} lacks {blob.digest}", fix="write that image again"
                ) from None
            with read:
                self.receive(blob, iter(lambda read=read: read.read(PIECE), b""))
        return self._read(image.manifest)

    def receive(self, blob: Descriptor, pieces: Iterable[bytes]) -> None:
        """Keep a blob that comes in pieces. Raises CorruptObject, and keeps nothing, where its digest is another."""
        target = self.path(blob.digest)
        digest = hashlib.sha256()
        with writing("the image", target), replacing(target) as fd:
            for piece in pieces:
                digest.update(piece)
                write_all(fd, piece)
            if digest.hexdigest() != checked_digest(blob.digest):
                raise CorruptObject(
                    f"what came for {blob.digest} has the digest sha256:{digest.hexdigest()}",
                    fix="try again; if it comes again, the registry or the folder is damaged",
                )

    def _compressed(self, write: Callable[[_Hashed], None]) -> tuple[Descriptor, str]:
        with writing("the image", self.folder), tempfile.TemporaryDirectory(dir=self.folder) as folder:
            target = Path(folder, "layer")
            with target.open("wb") as out:
                compressed = gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=LEVEL, mtime=0)
                hashed = _Hashed(compressed)
                with closing(compressed):
                    write(hashed)
                out.flush()
                sync_data(out.fileno())
            with target.open("rb") as written:
                digest = f"sha256:{hashlib.file_digest(written, 'sha256').hexdigest()}"
            made = Descriptor(media_type=LAYER, digest=digest, size=target.stat().st_size)
            target.replace(self.path(digest))
        return made, f"sha256:{hashed.digest.hexdigest()}"

    def add_image(self, name: str, layers: Sequence[Descriptor], config: Mapping[str, Any]) -> Image:
        """Tie layers and configuration into an image called `name`, in the place of one of that name."""
        blob = self._tied(layers, config)
        platform = {"architecture": config["architecture"], "os": config["os"]}
        named = msgspec.structs.replace(blob, annotations={NAME: name}, platform=platform)
        kept = [each for each in self._listed() if (each.annotations or {}).get(NAME) != name]
        with writing("the image", self.folder):
            write_atomic(self.folder / "index.json", _json(_index([*kept, named])))
        return self._read(named)

    def add_base(self, name: str, layers: Sequence[Descriptor], config: Mapping[str, Any]) -> Image:
        """As `add_image`, of what others begin with: it is found by `base` and is none of the layout's images."""
        blob = self._tied(layers, config)
        with writing("the image", self.folder):
            write_atomic(self.folder / f"base-{name}.json", _json(blob.raw()))
        return self._read(blob)

    def base(self, name: str) -> Image | None:
        """The base of that name, if one was added. Raises MissingObject or CorruptObject."""
        try:
            told = (self.folder / f"base-{name}.json").read_bytes()
        except FileNotFoundError:
            return None
        return self._read(msgspec.json.decode(told, type=Descriptor))

    def _tied(self, layers: Sequence[Descriptor], config: Mapping[str, Any]) -> Descriptor:
        """The manifest of these."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add(_json(config), CONFIG).raw(),
            "layers": [each.raw() for each in layers],
        }
        return self.add(_json(manifest), MANIFEST)

    def names(self) -> list[str]:
        """The names of its images, sorted."""
        return sorted((each.annotations or {}).get(NAME, "") for each in self._listed())

    def image(self, name: str = "") -> Image:
        """The image of that name; without one the only one. Raises MissingObject naming those that there are."""
        listed, names = self._listed(), self.names()
        found = [each for each in listed if not name or (each.annotations or {}).get(NAME) == name]
        if len(found) != 1:
            raise MissingObject(
                f"{self.folder} holds no image {name!r}"
                if name
                else f"{self.folder} holds {len(names)} images",
                why=f"its images: {', '.join(names) or 'none'}",
                fix="name one of these" if names else "make one: hooke image build",
            )
        return self._read(found[0])

    def read(self, blob: Descriptor) -> bytes:
        """A small blob, checked. Raises MissingObject or CorruptObject."""
        try:
            content = self.path(blob.digest).read_bytes()
        except FileNotFoundError:
            raise MissingObject(
                f"the image in {self.folder} lacks {blob.digest}",
                fix="build it again, or pull its base again",
            ) from None
        if hashlib.sha256(content).hexdigest() != checked_digest(blob.digest):
            raise CorruptObject(
                f"{self.path(blob.digest)} is damaged: its content has another digest",
                fix="remove the folder, and build the image again",
            )
        return content

    def layer_names(self, layer: Descriptor) -> Iterator[tarfile.TarInfo]:
        """What is in a layer, in its order. Raises UsageError for a compression that Python cannot read."""
        if layer.media_type.endswith("+zstd"):
            raise UsageError(
                f"a layer of the base is compressed with zstd ({layer.digest})",
                fix="use a base with gzip layers, or convert it: skopeo copy --dest-compress-format gzip",
            )
        with self.path(layer.digest).open("rb") as file, tarfile.open(fileobj=file, mode="r:*") as tar:
            yield from tar

    def _listed(self) -> list[Descriptor]:
        index = msgspec.json.decode((self.folder / "index.json").read_bytes())
        return [msgspec.convert(each, Descriptor) for each in index["manifests"]]

    def _read(self, manifest: Descriptor) -> Image:
        told = json.loads(self.read(manifest))
        config_blob = msgspec.convert(told["config"], Descriptor)
        return Image(
            manifest=manifest,
            config=json.loads(self.read(config_blob)),
            config_blob=config_blob,
            layers=tuple(msgspec.convert(each, Descriptor) for each in told["layers"]),
        )


def checked_digest(digest: str) -> str:
    """The 64 hex characters of a sha256 digest. Raises CorruptObject for anything else."""
    kind, _, hexadecimal = digest.partition(":")
    if kind != "sha256" or len(hexadecimal) != 64 or not set(hexadecimal) <= set("0123456789abcdef"):
        raise CorruptObject(
            f"{digest!r} is no sha256 digest", fix="the image or its registry is broken: pull the base again"
        )
    return hexadecimal


def _write_entries(out: _Hashed, files: Iterable[Inside]) -> None:
    """An archive of `files`, sorted and without times. Folders above each file are in it."""
    named = {each.path: each for each in files}
    for path, each in [*named.items()]:
        for above in Path(path).parents:
            if str(above) != ".":
                named.setdefault(str(above), Inside(path=str(above), owner=each.owner))
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, bufsize=PIECE) as tar:  # pyrefly: ignore[no-matching-overload]
        for path in sorted(named):
            _add(tar, named[path])


class _Hashed:
    """Writes on, and keeps the digest of what was written."""

    def __init__(self, out: IO[bytes] | gzip.GzipFile) -> None:
        self._out = out
        self._written = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self._written += len(data)
        return self._out.write(data)

    def tell(self) -> int:
        return self._written


def _add(tar: tarfile.TarFile, each: Inside) -> None:
    entry = tarfile.TarInfo(each.path)
    entry.mode = 0o755
    entry.uid = entry.gid = each.owner
    if each.link:
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, each.link, 0o777
        tar.addfile(entry)
    elif each.content is not None:
        entry.size, entry.mode = len(each.content), 0o755 if each.executable else 0o644
        tar.addfile(entry, io.BytesIO(each.content))
    elif each.file is not None:
        with each.file.open("rb") as read:
            facts = os.fstat(read.fileno())
            entry.size = facts.st_size
            entry.mode = 0o755 if each.executable or facts.st_mode & 0o100 else 0o644
            try:
                tar.addfile(entry, read)
            except OSError as error:
                if error.args != ("unexpected end of data",):
                    raise
                raise UsageError(
                    f"{each.file} became shorter while it was read",
                    fix="build the image again when nothing writes it",
                ) from error
    else:
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)


def _index(manifests: Sequence[Descriptor]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [each.raw() for each in manifests]}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
