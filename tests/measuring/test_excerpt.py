import pytest

from hooke.base.errors import UsageError
from hooke.measuring.excerpt import excerpt
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace


@task
def listed(n: int) -> list[int]:
    return list(range(n))


@task
def double(x: int) -> int:
    return 2 * x


@task
def add(x: int, y: int, *, bonus: int = 0) -> int:
    return x + y + bonus


@task(cache=False)
def total(xs: list[int]) -> int:
    return sum(xs)


@pipeline
def job(n: int = 8):
    doubled = double.map(range(n))
    return total(add.map(doubled, [0, *doubled[:-1]]))


@pipeline
def dynamic():
    return total(double.map(listed(3)))


@pipeline
def empty():
    return 1


def node(part, name):
    (found,) = [node for node in part.nodes if node.task.name == name]
    return found


def test_what_is_measured_is_not_cached_and_what_it_needs_is():
    part = excerpt(trace(job, (), {}), "add")
    assert [part.nodes[number].task.name for number in part.measured] == ["add"]
    assert part.roots() == part.measured
    caches = {node.task.name: node.task.resources.cache for node in part.nodes}
    assert caches == {"double": True, "add": False, "total": True}
    assert not part.is_whole


def test_the_whole_pipeline_is_every_node():
    part = excerpt(trace(job, (), {}), None)
    assert len(part.measured) == len(part.nodes)
    assert part.is_whole
    assert not any(node.task.resources.cache for node in part.nodes)


def test_a_share_is_the_first_items_in_all_columns():
    part = excerpt(trace(job, (), {}), "add").with_share(0.25)
    assert node(part, "add").items == 2
    assert [len(column) for column in node(part, "add").iterables] == [2, 2]
    assert excerpt(trace(job, (), {}), "double").with_first(3).nodes[0].items == 3


@pytest.mark.parametrize(
    ("pipeline_", "name", "shorten", "said"),
    [
        (job, "total", lambda part: part.with_share(0.5), "called, not mapped"),
        (job, "add", lambda part: part.with_share(0.3), "divide evenly"),
        (job, "add", lambda part: part.with_first(9), "8 items, fewer"),
        (dynamic, "double", lambda part: part.with_first(1), "is a result"),
    ],
)
def test_what_cannot_be_shortened_is_refused(pipeline_, name, shorten, said):
    part = excerpt(trace(pipeline_, (), {}), name)
    with pytest.raises(UsageError, match=said):
        shorten(part)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UsageError) as error:
        excerpt(trace(job, (), {}), "ad")
    assert "did you mean add?" in error.value.fix
    assert "double" in error.value.fix


def test_a_pipeline_without_tasks_is_refused():
    with pytest.raises(UsageError, match="calls no task"):
        excerpt(trace(empty, (), {}), None)
