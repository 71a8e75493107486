"""Random pipelines for simulations: small, of every shape that a graph can have, with plain Python to compare with.

A program is data, and one pipeline interprets it. So the same program is traced into a graph, and called as
plain Python for the result that every history must end with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.task import Resources, Task

__all__ = [
    "Program",
    "Step",
    "as_it_ended",
    "draw_program",
    "pipeline_of",
    "with_chains",
    "with_elastic_gangs",
    "with_fans",
    "with_gangs",
    "with_on_error",
]

GIB = 2**30
GANGS = 1 / 3
GOES_ON = 1 / 3
CHAINS = 1 / 7
FANS = 1 / 7
MAPS = frozenset({"static", "constants", "step", "columns"})
_MODULUS = 10_007

Note = Callable[[Any], None]


def mix(*values: Any) -> int:
    """One number of any nesting of numbers."""
    total = 7
    for value in values:
        total = (total * 31 + (value if isinstance(value, int) else mix(*value))) % _MODULUS
    return total


def leaf(value: int) -> int:
    """A result of a number alone."""
    return mix(value)


def pair(value: Any) -> tuple[int, int]:
    """A result that is used in parts."""
    return mix(value), mix(value, 1)


def listed(value: Any) -> list[int]:
    """A list for a dynamic map, of 0 to 6 items."""
    seed = mix(value)
    return [mix(seed, item) for item in range(seed % 7)]


def bump(item: Any, *, by: Any = 1) -> int:
    """An item of a map."""
    return mix(item, by)


def join(item: Any, other: Any) -> int:
    """An item of a map over two columns."""
    return mix(item, other)


@dataclass(frozen=True, slots=True)
class Step:
    """One call or map. `inputs` are places in the list of earlier results, each with the path to the part used."""

    kind: str
    task: Task[..., Any]
    inputs: tuple[tuple[int, tuple[int, ...]], ...] = ()
    constant: int = 0
    items: int = 0
    on_error: str = "raise"
    """Of a map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Steps, and which of their results the pipeline returns."""

    steps: tuple[Step, ...]
    returned: tuple[int, ...]


def pipeline_of(note: Note = lambda _: None) -> Pipeline[..., Any]:
    """The pipeline that interprets a program. `note` is told the result of each step, in the order of the graph's nodes."""

    def simulated(program: Program) -> Any:
        results: list[Any] = []
        for step in program.steps:
            results.append(_take(step, results))
            note(results[-1])
        return {"parts": [results[at] for at in program.returned], "constant": 5}

    return Pipeline(simulated, name="simulated")


def _take(step: Step, results: Sequence[Any]) -> Any:
    used = [_part(results[at], path) for at, path in step.inputs]
    if step.kind == "call":
        return step.task(*used, step.constant)
    if step.kind == "single":
        return step.task(*used or [step.constant])
    columns, keyword = _columns(step, used)
    return step.task.map(*columns, **keyword, on_error=step.on_error)


def _columns(step: Step, used: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """What a map goes over, and its keyword."""
    if step.kind == "static":
        return [range(step.constant, step.constant + step.items)], _keyword(used)
    if step.kind == "constants":
        return [[*used, *range(step.items)]], {}
    if step.kind == "step":
        return used[:1], _keyword(used[1:])
    return used, {}


def _keyword(used: Sequence[Any]) -> dict[str, Any]:
    return {"by": used[0]} if used else {}


def _part(value: Any, path: Sequence[int]) -> Any:
    for index in path:
        value = value[index]
    return value


class _Draw:
    """Draws one program. Keeps what each result is, so that steps fit together."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.steps: list[Step] = []
        self.shapes: list[tuple[str, int]] = []  # (number, pair, list, map, dynamic), length where known

    def program(self) -> Program:
        if self.random.random() < 0.3:
            self._narrow()
        else:
            for _ in range(self.random.randint(2, 9)):
                getattr(self, "_" + self.random.choice(_SHAPES))()
        if self.random.random() < 0.2:
            self._fan()
        if self.random.random() < 0.2:
            self._twice()
        used = {at for step in self.steps for at, _ in step.inputs}
        unused = [at for at in range(len(self.steps)) if at not in used]
        returned = unused[1:] if len(unused) > 1 and self.random.random() < 0.3 else unused
        extra = [at for at in used if self.random.random() < 0.1]
        return Program(steps=tuple(self.steps), returned=tuple(returned + extra))

    def _add(self, shape: tuple[str, int], step: Step) -> None:
        self.steps.append(step)
        self.shapes.append(shape)

    def _task(self, function: Callable[..., Any]) -> Task[..., Any]:
        draw = self.random
        resources = Resources(
            cpus=draw.choice((1, 1, 1, 0.5, 2, 4, 16)),
            memory=draw.choice((None, None, GIB, 3 * GIB, 64 * GIB)),
            retries=draw.choice((0, 1, 2, 4)),
            timeout_s=draw.choice((None, None, None, 5.0, 30.0)),
            cache=draw.random() < 0.8,
        )
        return Task(function, name=f"{function.__name__}{len(self.steps)}", resources=resources)

    def _use(self) -> tuple[int, tuple[int, ...]]:
        at = self.random.randrange(len(self.shapes))
        shape, length = self.shapes[at]
        if shape == "pair" and self.random.random() < 0.7:
            return at, (self.random.randrange(2),)
        if shape == "map" and length and self.random.random() < 0.4:
            return at, (self.random.randrange(length),)
        return at, ()

    def _uses(self, most: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        count = self.random.randint(0, min(most, len(self.shapes)))
        return tuple(self._use() for _ in range(count))

    def _call(self) -> None:
        self._add(("number", 0), Step("call", self._task(mix), self._uses(3), self.random.randrange(9)))

    def _fan(self) -> None:
        """Many calls of one task, which may wait behind one another where they are short."""
        task = self._task(mix)
        for constant in range(self.random.choice((6, 15, 30))):
            self._add(("number", 0), Step("call", task, self._uses(1), constant))

    def _pair(self) -> None:
        self._add(("pair", 2), Step("single", self._task(pair), self._uses(1), self.random.randrange(9)))

    def _static(self) -> None:
        items = self.random.choice((0, 1, 3, 8, 40))
        step = Step("static", self._task(bump), self._uses(1), self.random.randrange(9), items)
        self._add(("map", items), step)

    def _narrow(self) -> None:
        """A map and nothing beside it, so that slots are free while its last items run."""
        asked = Resources(
            memory=self.random.choice((None, GIB)),
            retries=self.random.choice((0, 1, 2)),
            timeout_s=self.random.choice((None, None, 30.0)),
            cache=self.random.random() < 0.9,
        )
        items = self.random.choice((8, 12, 40))
        task = Task(bump, name="bump0", resources=asked)
        self._add(("map", items), Step("static", task, items=items))
        if self.random.random() < 0.5:
            self._reduce()

    def _constants(self) -> None:
        """A map over a list that holds other results."""
        uses = self._uses(2)
        items = self.random.randint(1, 4)
        self._add(("map", len(uses) + items), Step("constants", self._task(bump), uses, items=items))

    def _dynamic(self) -> None:
        self._add(("list", 0), Step("single", self._task(listed), self._uses(1), self.random.randrange(9)))
        self._add(("dynamic", 0), Step("columns", self._task(bump), ((len(self.steps) - 1, ()),)))

    def _step(self) -> None:
        maps = [at for at, (shape, _) in enumerate(self.shapes) if shape in {"map", "dynamic"}]
        if not maps:
            self._static()
            maps = [len(self.steps) - 1]
        at = self.random.choice(maps)
        self._add(self.shapes[at], Step("step", self._task(bump), ((at, ()), *self._uses(1))))

    def _columns(self) -> None:
        self._step()
        first = self.steps[-1].inputs[0][0]
        self._add(
            self.shapes[-1], Step("columns", self._task(join), ((first, ()), (len(self.steps) - 1, ())))
        )

    def _reduce(self) -> None:
        self._step()
        self._add(("number", 0), Step("call", self._task(mix), ((len(self.steps) - 1, ()),), 1))

    def _twice(self) -> None:
        """The same call or map once more: two nodes of one key."""
        at = self.random.randrange(len(self.steps))
        self._add(self.shapes[at], self.steps[at])


_SHAPES = (
    "call",
    "call",
    "pair",
    "static",
    "static",
    "constants",
    "dynamic",
    "step",
    "step",
    "columns",
    "reduce",
)


def draw_program(random: Random) -> Program:
    """A random program."""
    return _Draw(random).program()


def with_chains(program: Program, random: Random) -> Program:
    """The program with some chains of calls of one task in one history of seven; some links need results of others, too."""
    if random.random() > CHAINS:
        return program
    asked = Resources(
        memory=random.choice((None, None, GIB)),
        retries=random.choice((0, 1, 2)),
        timeout_s=random.choice((None, None, 30.0)),
        cache=random.random() < 0.8,
    )
    task, steps = Task(mix, name="link", resources=asked), [*program.steps]
    ends: list[int] = []
    for constant in range(random.choice((1, 1, 2, 4))):
        before = random.randrange(len(steps))
        for _ in range(random.choice((3, 8, 20))):
            inputs = [(before, ())] + [(random.randrange(len(steps)), ())] * (random.random() < 0.1)
            before = len(steps)
            steps.append(Step("call", task, tuple(inputs), constant))
        ends.append(before)
    return Program(steps=tuple(steps), returned=(*program.returned, *ends))


def with_fans(program: Program, random: Random) -> Program:
    """The program with many calls of one task that need nothing in one history of seven: short ones go to workers in groups."""
    if random.random() > FANS:
        return program
    asked = Resources(retries=random.choice((0, 1, 2)), cache=random.random() < 0.8)
    task, many = Task(leaf, name="leaf", resources=asked), random.choice((12, 40, 90))
    leaves = [Step("call", task, (), constant) for constant in range(many)]
    first = len(program.steps)
    together = Step("call", Task(mix, name="tree"), tuple((first + at, ()) for at in range(many)))
    return Program(steps=(*program.steps, *leaves, together), returned=(*program.returned, first + many))


def with_gangs(program: Program, random: Random) -> Program:
    """The program with some of its tasks made gangs, in one history of three."""
    if random.random() > GANGS:
        return program
    tasks = {id(step.task): step.task for step in program.steps}
    drawn = {
        identity: Task(
            task.function,
            name=task.name,
            resources=replace(task.resources, gang=random.choice((1, 2, 3, 3, 4))),
        )
        for identity, task in tasks.items()
        if random.random() < 0.5
    }
    steps = [replace(step, task=drawn.get(id(step.task), step.task)) for step in program.steps]
    return replace(program, steps=tuple(steps))


def with_elastic_gangs(program: Program, random: Random) -> Program:
    """The program with some of its tasks made elastic gangs: in one history of three without others, and seldom beside them."""
    tasks = {id(step.task): step.task for step in program.steps}
    chance = 0.15 if any(task.resources.gang for task in tasks.values()) else 0.6
    if chance > 0.5 and random.random() > GANGS:
        return program
    drawn = {}
    for identity, task in tasks.items():
        most = random.choice((2, 3, 4, 4))
        asked = replace(task.resources, gang=most, least_ranks=random.randint(1, most - 1))
        if random.random() < chance:
            drawn[identity] = Task(task.function, name=task.name, resources=asked)
    steps = [replace(step, task=drawn.get(id(step.task), step.task)) for step in program.steps]
    return replace(program, steps=tuple(steps))


def with_on_error(program: Program, random: Random) -> Program:
    """The program with some of its maps going on after errors, in one history of three.

    No step uses a part of a list that may lack items: a pipeline cannot.
    """
    if random.random() > GOES_ON:
        return program
    partial: set[int] = set()
    steps: list[Step] = []
    for at, step in enumerate(program.steps):
        inputs = tuple((of, () if of in partial else path) for of, path in step.inputs)
        goes_on = step.kind in MAPS and random.random() < 0.85
        follows = {"step": inputs[:1], "columns": inputs}.get(step.kind, ())
        if goes_on or any(of in partial for of, _ in follows):
            partial.add(at)
        steps.append(replace(step, inputs=inputs, on_error="continue" if goes_on else "raise"))
    return replace(program, steps=tuple(steps))


def as_it_ended(
    program: Program, whole: Sequence[Any], *, found: Sequence[set[int]], own: Sequence[set[int]]
) -> Any:
    """The result of a run that left items out. `found` and `own` are the items of each step that have results.

    What was found is as in the `whole` results, where nothing failed; what the run did itself is computed again, from lists
    that lack what it lacked.
    """
    results: list[Any] = []
    for at, step in enumerate(program.steps):
        used = [_part(_as_list(results[of]), path) if own[at] else None for of, path in step.inputs]
        if step.kind in MAPS:
            by_place = [results[of] for of, _ in step.inputs]
            results.append(_places(step, used, by_place, whole[at], found[at], own[at]))
        elif own[at]:
            arguments = [*used, step.constant] if step.kind == "call" else used or [step.constant]
            results.append(step.task.function(*arguments))
        else:
            results.append(whole[at] if found[at] else None)
    return {"parts": [_as_list(results[at]) for at in program.returned], "constant": 5}


def _places(
    step: Step, used: list[Any], by_place: list[Any], whole: Any, found: set[int], own: set[int]
) -> dict[int, Any]:
    """Place -> result of a map."""
    columns, keyword = _columns(step, used)
    if step.kind in ("step", "columns"):  # item by item over maps; over a list as it is
        columns = by_place[: len(columns)]
    return {
        place: whole[place]
        if place in found
        else step.task.function(*(column[place] for column in columns), **keyword)
        for place in sorted(found | own)
    }


def _as_list(result: Any) -> Any:
    return list(result.values()) if isinstance(result, dict) else result
