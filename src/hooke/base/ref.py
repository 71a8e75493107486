"""A reference to an encoded object: the one way in which values travel between processes."""

from __future__ import annotations

import msgspec

__all__ = ["FileRef", "Ref"]


class FileRef(msgspec.Struct, frozen=True, array_like=True):
    """A file in a result: its path relative to the project's folder (absolute outside of it), and the key of its content.

    `digest` and `size` are those of the stored object with the content, `mode` its permissions. With an empty digest the
    content is not stored, and the result counts only while the file has it. `item` is the place in a map's list of results.
    `passed_on` says that the task got the file from another's result and returned it as it was.
    """

    path: str
    key: str
    digest: str = ""
    size: int = 0
    mode: int = 0
    item: int = 0
    passed_on: bool = False


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """An encoded object in the store: content digest (64 hex), size in bytes, the bytes themselves when small.

    `files` are those that a task's result names.
    """

    digest: str
    size: int
    inline: bytes | None = None
    files: tuple[FileRef, ...] = ()

    def without_files(self) -> Ref:
        """The same object, for those who only read the value: it names its files itself."""
        return msgspec.structs.replace(self, files=()) if self.files else self

    def objects(self) -> list[Ref]:
        """The objects of their own that the value needs: this one, unless it is inline, and the contents of its files."""
        own = [] if self.inline is not None else [self]
        return own + [Ref(file.digest, file.size) for file in self.files if file.digest]
