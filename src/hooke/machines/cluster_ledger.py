"""The ledger of a fleet whose keeper is in a Kubernetes cluster: a ConfigMap with a key for each record.

A record is written with the version that was read last, so of two keepers the one that came later writes and the other one fails before
it acts. Old records of machines that are gone are dropped before the ConfigMap is full (1 MiB).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import msgspec

from hooke.base.errors import JournalError
from hooke.journal.fleet_events import FleetWanted, LedgerRecord
from hooke.kubernetes.client import ApiError, ApiUnreachable, Conflicting, Kubernetes, Manifest, NotThere
from hooke.machines.controller import FleetState, restored

__all__ = ["CONFIG_MAP", "MOST_RECORDS", "ClusterLedger", "ledger_manifest", "records_in"]

CONFIG_MAP = "v1/ConfigMap"
MOST_RECORDS = 2000
"""About 250 KB, where their reasons are short."""
MOST_BYTES = 750_000
"""Reasons may be long. The rest up to 1 MiB is for records of machines that are there, which are never dropped."""
DROPPED = 500
"""How many old records are dropped at once."""
AGAIN_S = 1.0
"""Before a write is tried again that had no answer."""


def ledger_manifest(name: str, records: Sequence[LedgerRecord], *, labels: Mapping[str, str]) -> Manifest:
    """The ConfigMap of a ledger that begins with these records, or the newest of them that fit. Pure."""
    kept = dict(enumerate(records, start=1))
    for number in _droppable(kept, _surplus(kept)):
        del kept[number]
    data = {_key(number): _text(record) for number, record in kept.items()}
    about = {"name": name, "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": data}


def records_in(config_map: Manifest) -> list[LedgerRecord]:
    """The records, in their order. Raises JournalError where one is damaged. Pure."""
    return list(_numbered(config_map).values())


class ClusterLedger:
    """One fleet's ledger in a ConfigMap, as `Ledger` is one on a disk."""

    def __init__(
        self,
        client: Kubernetes,
        config_map: Manifest,
        *,
        namespace: str,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._name = config_map["metadata"]["name"]
        self._namespace = namespace
        self._version = config_map["metadata"]["resourceVersion"]
        self._records = _numbered(config_map)
        self._bytes = sum(map(_size, self._records.values()))
        self._wait = wait

    @classmethod
    def open(cls, client: Kubernetes, name: str, *, namespace: str, labels: Mapping[str, str]) -> Self:
        """The ledger of that name; one that exists goes on. Raises ApiError, ApiUnreachable, JournalError."""
        try:
            found = client.get(CONFIG_MAP, name, namespace=namespace)
        except NotThere:
            found = client.create(ledger_manifest(name, (), labels=labels), namespace=namespace)
        return cls(client, found, namespace=namespace)

    def write(self, event: LedgerRecord) -> None:
        """Write a record, and wait while the API server does not answer or is busy. Raises JournalError where another keeper has written."""
        number = max(self._records, default=0) + 1
        full = len(self._records) >= MOST_RECORDS or self._bytes + _size(event) > MOST_BYTES
        gone = _droppable(self._records, DROPPED) if full else []
        data: Manifest = {_key(each): None for each in gone} | {_key(number): _text(event)}
        change = {"metadata": {"resourceVersion": self._version}, "data": data}
        while True:
            try:
                made = self._client.patch(CONFIG_MAP, self._name, change, namespace=self._namespace)
            except Conflicting as error:
                if (made := self._written(number, event)) is None:
                    raise JournalError(
                        f"another keeper writes to the ledger {self._name}", why=error.what
                    ) from error
            except ApiUnreachable:
                self._wait(AGAIN_S)  # whether it was written shows when the next try conflicts
                continue
            except ApiError as error:
                if error.code == 429 or error.code >= 500:  # its database may be away
                    self._wait(AGAIN_S)
                    continue
                raise JournalError(f"cannot write to the ledger {self._name}", why=error.what) from error
            break
        self._version = made["metadata"]["resourceVersion"]
        for each in gone:
            self._bytes -= _size(self._records.pop(each))
        self._records[number] = event
        self._bytes += _size(event)

    def fleet(self, name: str) -> FleetState:
        """The fleet's state according to the ledger."""
        return restored(name, self._records.values())

    def _written(self, number: int, event: LedgerRecord) -> Manifest | None:
        """The ConfigMap, if this record is its last: then the answer to a write was lost."""
        found = self._client.get(CONFIG_MAP, self._name, namespace=self._namespace)
        data = found.get("data") or {}
        return found if max(data, default="") == _key(number) and data[_key(number)] == _text(event) else None


def _surplus(records: Mapping[int, LedgerRecord]) -> int:
    """How many of the oldest records are too many. Pure."""
    kept = size = 0
    for record in reversed(list(records.values())):
        size += _size(record)
        if kept == MOST_RECORDS or size > MOST_BYTES:
            break
        kept += 1
    return len(records) - kept


def _droppable(records: Mapping[int, LedgerRecord], count: int) -> list[int]:
    """The oldest records that say nothing of the present. Pure."""
    live = restored("", records.values()).members
    wanted = max((number for number, each in records.items() if isinstance(each, FleetWanted)), default=0)
    old = [
        number
        for number, each in records.items()
        if number != wanted and getattr(each, "token", "") not in live
    ]
    return old[: max(count, 0)]


def _numbered(config_map: Manifest) -> dict[int, LedgerRecord]:
    data: Mapping[str, str] = config_map.get("data") or {}
    try:
        return {int(key): msgspec.json.decode(data[key], type=LedgerRecord) for key in sorted(data)}
    except (msgspec.DecodeError, ValueError) as error:
        name = config_map["metadata"]["name"]
        raise JournalError(f"the ledger {name} is damaged", why=str(error)) from error


def _key(number: int) -> str:
    return f"{number:09d}"


def _size(record: LedgerRecord) -> int:
    return len(msgspec.json.encode(record))


def _text(record: LedgerRecord) -> str:
    return msgspec.json.encode(record).decode()
