"""Which study answers which question: a key of all that the answer depends on."""

from __future__ import annotations

import platform
from importlib.metadata import version

from hooke.keys.code import fingerprint_code
from hooke.keys.combine import combine
from hooke.keys.value import fingerprint_value
from hooke.pipeline.node_keys import GraphKeys
from hooke.studies.conduct import Subject
from hooke.studies.design import Design
from hooke.studies.machine import machine_facts

__all__ = ["study_key"]


def study_key(subject: Subject, design: Design, *, place: str) -> str:
    """Studies of equal key measure the same: code, inputs, machine, versions and what is varied.

    Not how often it is measured: more repeats go on with those there are. Raises NotFingerprintable.
    """
    keys = GraphKeys(subject.part, run="")
    plain = fingerprint_code(subject.plain).key if subject.plain is not None else ""
    whole = fingerprint_code(subject.pipeline).key if subject.part.is_whole else ""
    varied = (subject.task, design.levels, design.sizes, design.weak)
    where = (place, machine_facts(), platform.python_version(), version("hooke"))
    facts = fingerprint_value((varied, where), where="measure")
    return combine("study", whole, plain, facts, *(keys[number].key for number in subject.part.measured))
