"""Traced graphs as steps: order, names, arguments; what is refused; the files that come of it, and how little an edit changes them."""

import ast
import difflib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exporters.test_value_text import VALUES

from hooke import File, pipeline, task
from hooke.base.errors import UsageError
from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.exporters.airflow import POD_HELPERS
from hooke.exporters.plan import ParameterValue, Secret, StepResult, plan_of_graph, step_results_in
from hooke.exporters.pod_settings import pod_settings
from hooke.exporters.source import Writer, joined_call
from hooke.exporters.targets import TARGETS, Abilities, ExportOrder, ExportTarget, export, refused_by
from hooke.exporters.value_text import read_value
from hooke.pipeline.graph import Graph
from hooke.pipeline.trace import trace
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.project.settings import BackendSettings, Settings, StoreSettings

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
WRITTEN = ("airflow", "airflow_pods", "kubeflow", "prefect", "script")
IMAGES = {"airflow_pods": "registry.example.com/job:1", "kubeflow": "registry.example.com/job:1"}
"""Of targets that need one."""
PROJECT = replace(Project.at(ROOT), settings=Settings(store=StoreSettings(url="s3://results/job")))
"""With a store that pods reach."""


@task
def numbers(n):
    return list(range(n))


@task(cpus=2, memory="1GiB", retries=3, timeout="5m")
def double(x, by=2):
    return x * by


@task
def total(values, *, weights=()):
    return sum(values)


def named(body):
    return pipeline(name="job")(body)


def made(body, *args, flavour="reference"):
    plan, refusals = plan_of_graph(trace(named(body), args), file=HERE, root=ROOT, flavour=flavour)
    assert not refusals
    return plan


def refused(body, target="script", **asked):
    with pytest.raises(UsageError) as error:
        exported(body, target, **asked)
    return str(error.value)


def exported(body, target="script", out=HERE.with_name("out.py"), project=PROJECT, **asked):
    target, _, pods = target.partition("_")
    asked |= {"pods": True} if pods else {}
    order = ExportOrder(target=target, pipeline=named(body), file=HERE, out=out, **asked)
    return export(order, project)


# --- Steps.


@pytest.mark.needs("cpu")
def test_steps_have_names_arguments_and_what_their_tasks_ask_for():
    def body():
        listed = numbers(3)
        first = double.map(listed, by=5)
        return total(double.map(first))

    plan = made(body)
    assert [step.name for step in plan.steps] == ["numbers", "numbers_items", "double", "double_2", "total"]
    listed, items, first, second, last = plan.steps
    assert listed.arguments == {"n": 3} and listed.entry.target == "tests/exporters/test_plan.py:numbers"
    assert items.kind == "list" and items.arguments == {"value": StepResult("numbers")}
    assert first.columns == {"x": StepResult("numbers_items")} and first.arguments == {"by": 5}
    assert first.length is None and first.is_mapped and first.uses == ("numbers_items",)
    assert (first.cpus, first.memory, first.retries, first.timeout_s) == (2, 2**30, 3, 300)
    assert second.columns == {"x": StepResult("double")} and second.arguments == {}, (
        "a default is not written"
    )
    assert last.arguments == {"values": StepResult("double_2")} and plan.output == StepResult("total")


@pytest.mark.needs("cpu")
def test_what_a_pipeline_returns_is_a_step_where_it_is_more_than_a_result():
    def body():
        mapped = double.map([1, 2])
        return {"one": mapped[0], "all": mapped}

    plan = made(body)
    assert plan.output == StepResult("result") and plan.steps[-1].kind == "value"
    assert plan.steps[-1].arguments["value"] == {
        "one": StepResult("double", (0,)),
        "all": StepResult("double"),
    }
    assert made(lambda: double.map([1])).output == StepResult("result"), "a list of references is not one"
    assert made(lambda: double.map([1]), flavour="plain").output == StepResult("double")


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("target", [each for each in WRITTEN if each != "script"])
def test_items_that_may_fail_are_run_with_all_their_tries(target):
    """The shape `lossy` runs on each scheduler; here it is that each flavour passes the option on."""
    text = exported(
        lambda: total(double.map([1, 2], on_error="continue")), target, image=IMAGES.get(target, "")
    )
    assert '"--on-error"' in text
    assert "continue" in text
    assert '"--on-error"' not in exported(
        lambda: total(double.map([1, 2])), target, image=IMAGES.get(target, "")
    )


def test_an_item_that_may_fail_has_its_timeout_in_hooke_exec():
    step = made(lambda: double.map([1, 2], on_error="continue")).steps[0]
    assert (step.on_error, step.retries, step.timeout_s) == ("continue", 3, None)
    assert made(lambda: double.map([1, 2])).steps[0].on_error == "raise"


def test_without_hooke_a_list_needs_no_step():
    plan = made(lambda: double.map(numbers(2)), flavour="plain")
    assert [step.name for step in plan.steps] == ["numbers", "double"]
    assert plan.steps[1].columns == {"x": StepResult("numbers")}


def test_names_are_identifiers_that_files_do_not_use_themselves():
    renamed = [
        task(name=name)(lambda: 1) for name in ("task", "a-b", "a.b", "import", "sum", "_hooke", "_text")
    ]

    def body():
        return [each() for each in renamed]

    plan, _ = plan_of_graph(trace(named(body)), file=HERE, root=ROOT)
    assert [step.name for step in plan.steps] == [
        *("task_", "a_b", "a_b_2", "import_", "sum_", "_hooke_", "_text_", "result")
    ]


@st.composite
def bodies(draw):
    """A body of calls, maps and parts, each on results of earlier ones."""
    choices = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=12))

    def body():
        lists, values = [], [1]
        for kind, which in choices:
            if kind == 0:
                lists.append(numbers(values[which % len(values)]))
            elif kind == 1:
                values.append(double(values[which % len(values)], by=which))
            elif kind == 2:
                lists.append(double.map([*values[: which + 1], which]))
            elif kind == 3 and lists:
                lists.append(double.map(lists[which % len(lists)]))
            elif lists:
                values.append(total(lists[which % len(lists)]))
        return values, lists

    return body


@pytest.mark.long
@pytest.mark.needs("cpu")
@settings(max_examples=30)
@given(bodies(), st.sampled_from(["reference", "plain"]))
def test_steps_come_after_what_they_use_and_the_same_body_gives_the_same_text(body, flavour):
    plan = made(body, flavour=flavour)
    before = set()
    for step in plan.steps:
        assert step.name.isidentifier() and step.name not in before
        assert before.issuperset(step.uses)
        before.add(step.name)
    for name in TARGETS.names() if flavour == "reference" else ():
        target, image = TARGETS.load(name), IMAGES.get(name, "")
        given = {"image": image, "pod": pod_settings(PROJECT).manifest}
        again = msgspec.structs.replace(made(body), **given)
        if not target.refusals(again):
            text = target.write(msgspec.structs.replace(plan, **given), HERE.with_name("out.py"))
            ast.parse(text)
            assert text == target.write(again, HERE.with_name("out.py"))


class Code(str):
    """As in exported files."""

    __slots__ = ()
    __repr__ = str.__str__


@pytest.mark.needs("cpu")
@settings(max_examples=50)
@given(VALUES)
def test_constants_reach_a_task_as_they_are(value):
    plan = plan_of_graph(Graph(pipeline="job", nodes=()), file=HERE, root=ROOT)[0]
    text = Writer(plan).value([value])
    there = eval(joined_call("dict", [f"x={text}", "y=1"], indent=8), {"Code": Code})
    assert read_value(repr(there)) == {"x": [value], "y": 1}


@settings(max_examples=50)
@given(st.text("{%#$}'\"\\(A"), st.one_of(st.text("{%#$}'\"\\(A"), st.binary()))
def test_texts_reach_a_pod_past_what_airflow_and_kubernetes_fill_in(key, value):
    helpers = {}
    exec("import re\n" + POD_HELPERS[POD_HELPERS.index("def _text") :], helpers)
    text = helpers["_text"]({key: [{1: value}]})
    assert not any(each in text for each in ("{{", "{%", "{#", "$"))
    assert read_value(text) == {key: [{1: value}]}


def test_items_that_airflow_would_fill_in_go_by_their_number():
    assert "double.expand(x=['a', 'b'])" in exported(lambda: double.map(["a", "b"]), "airflow")
    assert "double.expand(i=list(range(2)))" in exported(lambda: double.map(["a", "{{ ds }}"]), "airflow")


def test_parts_and_items_are_written_as_a_person_would():
    def body():
        mapped = double.map([1, 2, 3])
        return (
            total(mapped),
            total(mapped[1:]),
            total([0, *mapped[:2], mapped[2]["a"]]),
            total([mapped[2], mapped[0]]),
        )

    plan = made(body)
    writer = Writer(plan)
    assert [writer.value(step.arguments["values"]) for step in plan.steps[1:5]] == [
        "double",
        "double[1:]",
        "[0, *double[:2], double[2] + \"['a']\"]",
        "[double[2], double[0]]",
    ]
    assert writer.value(ParameterValue("rows", ("train", 0))) == "rows['train'][0]"
    assert step_results_in({"a": [StepResult("x"), (StepResult("y", (0,)),)]}) == [
        StepResult("x"),
        StepResult("y", (0,)),
    ]
    assert eval(writer.value(-math.inf)) == -math.inf


# --- Parameters.


@pytest.mark.needs("cpu")
def test_parameters_that_the_body_only_hands_on_stay_parameters():
    def body(n=3, label="x", many=False, scale=2):
        listed = numbers(n)
        found = double.map(listed, by=scale)
        return (total(found) if many else found), label

    text = exported(body)
    assert "def main(n=3, label='x', scale=2):" in text and "n=n" in text and "by=scale" in text
    assert "def main(n=5, label='x', scale=2):" in exported(body, params={"n": 5})
    assert (
        "total" not in text.partition("def main")[2]
        and "total" in exported(body, params={"many": True}).partition("def main")[2]
    )


# --- What is refused, all of it at once.


@task(gang=2)
def ranks():
    return 1


@task(gpus=1)
def on_gpu():
    return 1


@task(gpus=0.5)
def half_a_gpu():
    return 1


def local_task():
    @task
    def inside():
        return 1

    return inside()


def test_everything_that_cannot_be_expressed_is_said_at_once_and_with_its_fix():
    def body():
        total(object())
        local_task()
        return double("hooke:" + "0" * 64 + ".7"), double("hooke:failed")

    said = refused(body)
    assert "4 reasons; nothing is written" in said
    assert said.count("fix:") == 5
    for reason in (
        "it is of the type object",
        "task 'inside' cannot be found by another process",
        "is the text of a reference, which would be read as the stored value",
        "'hooke:failed' is the text of a reference",
    ):
        assert reason in said, said


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("body", "target", "asked", "reason"),
    [
        (lambda: total(list(range(20_000))), "script", {}, "is a constant of "),
        (
            lambda: double.map([1], on_error="continue"),
            "script",
            {"flavour": "plain"},
            'double.map has on_error="continue" (test',
        ),
        (lambda: double.map(numbers_array()), "script", {}, "double.map goes over a ndarray"),
        (
            lambda: double(1),
            "script",
            {"schedule": "0 6 * * *"},
            "--schedule: a script runs when it is started",
        ),
        (lambda: double(1), "script", {"image": "a:1"}, "--image: a script runs where it is started"),
        (lambda: double(1), "script", {"pods": True}, "--pods: a script has no such flavour"),
        (lambda: on_gpu(), "airflow", {}, "on_gpu: gpus=1: a worker of Airflow gives"),
        (lambda: double.map([]), "airflow", {}, "double: a map over no items: Airflow skips"),
        (lambda: double(1), "airflow", {"image": "a:1"}, "--image: a worker of Airflow"),
        (lambda: double(1), "airflow", {"place": "a"}, "--place: it describes pods, and there are none"),
        (lambda: double(1), "airflow_pods", {}, "no image: each task is a pod"),
        (
            lambda: half_a_gpu(),
            "airflow_pods",
            {"image": "a:1"},
            "half_a_gpu: gpus=0.5: a pod has whole GPUs",
        ),
        (
            lambda: double(1),
            "airflow_pods",
            {"image": "a:1", "flavour": "plain"},
            "--plain: a pod runs a command",
        ),
    ],
)
def test_what_a_target_cannot_express_is_refused_with_its_reason(body, target, asked, reason):
    assert reason in refused(body, target, **asked)


@dataclass(frozen=True)
class Settled:
    rate: float
    rows: object = ()


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("target", WRITTEN)
def test_an_object_around_what_does_not_exist_yet_is_refused_by_what_is_inside(target):
    def body(rate=0.5):
        return double(Settled(rate, [numbers(3), rate]))

    asked = {"image": IMAGES[target]} if target in IMAGES else {}
    said = refused(body, target, **asked)
    assert "argument `x` of `double` is an object that has " in said
    assert "the result of numbers inside" in said
    assert ("the parameter rate, " in said) == (target != "kubeflow")  # there it would need an annotation
    assert "make the object in a task" in said
    assert "Settled(rate=0.5, rows=())" in exported(lambda: double(Settled(0.5)), target, **asked)


@pytest.mark.needs("cpu")
def test_each_ability_that_a_target_lacks_has_its_reason():
    lacking = Abilities(
        flavours=(),
        **dict.fromkeys(
            "maps dynamic_maps several_columns gangs gpus memory retries timeouts schedule secrets image".split(),
            False,
        ),
        most_items=2,
        reasons={"memory": "it has no memory"},
    )

    def body():
        ranks(), on_gpu()
        return total(double.map(numbers(2), [1, 2, 3]), weights=double.map([1, 2, 3]))

    plan, _ = plan_of_graph(trace(named(body)), file=HERE, root=ROOT)
    secret = Secret(variable="A", secret="b", key="c")
    plan = msgspec.structs.replace(plan, pods=True, image="a:1", schedule="0 6 * * *", secrets=(secret,))
    found = refused_by(ExportTarget(title="the target", able=lambda _: lacking, write=lambda *_: ""), plan)
    said = [each.what for each in found]
    assert said[:5] == ["--pods", "--plain", "--schedule", "--secret", "--image"]
    assert "double: it is mapped over several lists" in said and "double_2: 3 items" in said
    assert {each.why for each in found if "memory" in each.what} == {"it has no memory"}
    for what in (
        "ranks: gang=2",
        "on_gpu: gpus=1",
        "double: retries=3",
        "double: timeout=5",
        "double: memory=1",
    ):
        assert any(each.startswith(what) for each in said), said
    assert not refused_by(
        ExportTarget(title="t", able=lambda _: Abilities(), write=lambda *_: "", pods="asked"), plan
    )


# --- Pods: the place in hooke.toml that describes them, and the store that they share.


def placed(store="", **places):
    """A project with places of the engine kubernetes."""
    engines = {
        name: BackendSettings(engine="kubernetes", options=options) for name, options in places.items()
    }
    return replace(PROJECT, settings=Settings(store=StoreSettings(url=store), places=engines))


CLAIM = {
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "results"}}],
    "containers": [{"name": "worker", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
}
OWN = CLAIM | {"volumes": [{"name": "data", "emptyDir": {}}]}
NODES = CLAIM | {"volumes": [{"name": "data", "hostPath": {"path": "/data"}}]}
MISSING = CLAIM | {"volumes": []}


@pytest.mark.needs("cpu")
def test_pods_have_the_image_and_the_namespace_and_the_template_of_a_place():
    one = {"image": "a:1", "namespace": "team", "pod_template": {"spec": {"nodeSelector": {"gpu": "h100"}}}}
    text = exported(lambda: ranks(), "airflow_pods", project=placed("s3://a/b", one=one))
    assert (
        'IMAGE = "a:1"' in text and 'namespace="team",' in text and '"nodeSelector": {"gpu": "h100"}' in text
    )
    assert "container_resources=k8s.V1ResourceRequirements(requests={'cpu': '2'})" in text, "of both ranks"
    two = placed("s3://a/b", one=one, two={"image": "b:1"})
    assert 'IMAGE = "b:1"' in exported(lambda: double(1), "airflow_pods", project=two, place="two")
    assert 'IMAGE = "c:1"' in exported(
        lambda: double(1), "airflow_pods", project=two, place="two", image="c:1"
    )
    assert "IMAGE = 'b:1'" in exported(lambda: double(1), "kubeflow", project=two, place="two")
    assert "several places of the engine kubernetes: one, two" in refused(
        lambda: double(1), "airflow_pods", project=two
    )
    assert "did you mean two?" in refused(lambda: double(1), "airflow_pods", project=two, place="tow")


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("store", "place", "said"),
    [
        ("", {}, "the store is the folder .hooke/store: each pod would have a folder /app/.hooke/store"),
        ("", {"home": "claim"}, ""),
        ("/data/store", {}, "a folder /data/store of its own"),
        (
            "/data/store",
            {"pod_template": {"spec": OWN}},
            "a volume that the place's pod_template mounts at /data/store",
        ),
        ("/data/store", {"pod_template": {"spec": MISSING}}, "a folder /data/store of its own"),
        ("/data/store", {"pod_template": {"spec": NODES}}, "a folder /data/store of its own"),
        ("/data/store", {"pod_template": {"spec": CLAIM}}, ""),
        ("file:///data/store", {"pod_template": {"spec": CLAIM}}, ""),
        ("data", {"pod_template": {"spec": CLAIM}}, "a folder /app/data of its own"),
        ("s3://bucket/results", {}, ""),
    ],
)
@pytest.mark.parametrize("target", ["airflow_pods", "kubeflow"])
def test_a_store_that_pods_do_not_share_is_refused(store, place, said, target):
    project = placed(store, one={"image": "a:1", **place})
    if said:
        assert said in refused(lambda: double(1), target, project=project)
        return
    text = exported(lambda: double(1), target, project=project)
    claims = {"airflow_pods": "persistentVolumeClaim", "kubeflow": "mount_pvc"}
    assert (claims[target] in text) == ("s3" not in store)


@pytest.mark.long
def test_a_place_of_whole_nodes_is_refused():
    project = placed("s3://a/b", one={"image": "a:1", "instance": "m5.xlarge"})
    said = refused(lambda: double(1), "airflow_pods", project=project)
    assert 'nodes = "node.kubernetes.io/instance-type=m5.xlarge"' in said


SAID = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
    "spec": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 9}],
        "imagePullSecrets": [{"name": "registry"}],
        "containers": [
            {
                "name": "worker",
                "imagePullPolicy": "Always",
                "env": [
                    {"name": "HOME", "value": "/home"},
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "a"}}},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {
                        "name": "C",
                        "valueFrom": {"secretKeyRef": {"name": "s", "key": "c", "optional": True}},
                    },
                ],
                "volumeMounts": [
                    {"name": "claim", "mountPath": "/claim", "subPath": "part", "readOnly": False},
                    {"name": "keys", "mountPath": "/keys", "readOnly": True},
                    {"name": "words", "mountPath": "/words"},
                    {"name": "fast", "mountPath": "/fast"},
                ],
            }
        ],
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": "results"}},
            {"name": "keys", "secret": {"secretName": "keys"}},
            {"name": "words", "configMap": {"name": "words", "optional": True}},
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    },
}
"""What a place says of its pods that a package of KFP can say, too."""
PLACED = """
    task.set_env_variable('HOME', '/home')
    kubernetes.use_config_map_as_env(task, config_map_name='map', config_map_key_to_env={'a': 'A'})
    kubernetes.use_field_path_as_env(task, env_name='B', field_path='metadata.name')
    kubernetes.use_secret_as_env(task, secret_name='s', secret_key_to_env={'c': 'C'}, optional=True)
    kubernetes.empty_dir_mount(task, volume_name='hooke-home', mount_path='/app/.hooke')
    kubernetes.mount_pvc(task, pvc_name='results', mount_path='/claim', sub_path='part')
    kubernetes.use_secret_as_volume(task, secret_name='keys', mount_path='/keys')
    kubernetes.use_config_map_as_volume(task, config_map_name='words', mount_path='/words', optional=True)
    kubernetes.empty_dir_mount(
        task, volume_name='fast', mount_path='/fast', medium='Memory', size_limit='1Gi'
    )
    kubernetes.set_image_pull_policy(task, policy='Always')
    kubernetes.add_pod_label(task, label_key='team', label_value='a')
    kubernetes.add_pod_annotation(task, annotation_key='note', annotation_value='b')
    kubernetes.add_node_selector(task, label_key='disk', label_value='ssd')
    kubernetes.add_toleration(task, key='gpu', operator='Exists', toleration_seconds=9)
    kubernetes.set_image_pull_secrets(task, secret_names=['registry'])
"""


def test_a_package_of_kubeflow_has_what_it_can_say_of_a_places_pods():
    project = placed("s3://a/b", one={"image": "a:1", "pod_template": SAID})
    text = exported(lambda: double(1), "kubeflow", project=project)
    said = text.partition('task.set_cpu_request("1")')[2].partition("    return task")[0]
    assert "".join(said.split()).replace(",)", ")") == "".join(PLACED.split())


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {}}}]}, "valueFrom of the variable A"),
        ({"envFrom": [{"secretRef": {"name": "a"}}]}, "envFrom of the container"),
        ({"resources": {"limits": {"cpu": "2"}}}, "resources of the container"),
        ({"securityContext": {"runAsUser": 5}}, "securityContext of the container"),
        ({"name": "proxy"}, "the container proxy"),
        ({"volumeMounts": [{"name": "tmp", "mountPath": "/tmp", "subPath": "a"}]}, "the volume tmp at /tmp"),
        ({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}, "the volume data at /data"),
        (("spec", {"initContainers": [{"name": "first"}]}), "the container first"),
        (("spec", {"serviceAccountName": "a"}), "serviceAccountName"),
        (("spec", {"securityContext": {"fsGroup": 5}}), "securityContext"),
        (("spec", {"priorityClassName": "a"}), "priorityClassName"),
        (("metadata", {"finalizers": ["a"]}), "finalizers of metadata"),
    ],
)
def test_what_kubeflow_cannot_say_of_a_places_pods_is_refused(template, said):
    if isinstance(template, dict):
        template = ("spec", {"containers": [{"name": "worker"} | template]})
    project = placed("s3://a/b", one={"image": "a:1", "pod_template": dict([template])})
    exported(lambda: double(1), "airflow_pods", project=project)
    assert f"pod_template: {said}: a package of KFP cannot say it" in refused(
        lambda: double(1), "kubeflow", project=project
    )


def test_a_volume_that_kubeflow_cannot_mount_is_refused():
    server = CLAIM | {"volumes": [{"name": "data", "nfs": {"server": "a", "path": "/b"}}]}
    project = placed("/data", one={"image": "a:1", "pod_template": {"spec": server}})
    assert "nfs" in exported(lambda: double(1), "airflow_pods", project=project)
    assert "the volume data at /data: a package of KFP cannot say it" in refused(
        lambda: double(1), "kubeflow", project=project
    )


def numbers_array():
    import numpy as np

    return np.arange(3)


# --- Files: golden, and small changes.


def golden():
    """As in docs: a chain with a map, a file, a retry and a timeout."""
    listed = numbers(3)
    found = double.map(listed, by=5)
    return {"sum": total(found), "first": found[0], "of": File("data.csv")}


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("target", WRITTEN)
def test_the_file_is_the_golden_one(target):
    secrets = (Secret(variable="TOKEN", secret="service", key="token"),)
    text = exported(golden, target, secrets=secrets, image=IMAGES.get(target, ""))
    kept = HERE.with_name(f"golden_{target}.txt")
    assert text == kept.read_text("utf-8"), f"if this is meant, write it to {kept}"


SALES = """
from hooke import pipeline, task

@task
def shops(country: str) -> list[str]:
    return [country]

@task(retries=2)
def revenue(shop: str, rate: float = 1.0) -> float:
    return rate * len(shop)

@task
def report(values: list[float]) -> dict[str, float]:
    return {"sum": sum(values)}

@pipeline
def sales(country: str = "de", rate: float = 2.0):
    listed = shops(country)
    found = revenue.map(listed, rate=rate)
    return report(found)
"""
EDITS = {
    "an added call": (
        "    return report(found)",
        "    other = revenue.map(listed)\n    return {'one': report(found), 'other': report(other)}",
    ),
    "a removed call": ("    return report(found)", "    return found"),
    "another number of retries": ("retries=2", "retries=5"),
    "retries that are new": ("@task\ndef report", "@task(retries=1)\ndef report"),
    "another default": ("rate: float = 2.0", "rate: float = 3.0"),
    "a renamed parameter of the pipeline": (
        'sales(country: str = "de", rate: float = 2.0):\n    listed = shops(country)',
        'sales(land: str = "de", rate: float = 2.0):\n    listed = shops(land)',
    ),
    "a renamed parameter of a task": (
        "revenue(shop: str, rate: float = 1.0) -> float:\n    return rate * len(shop)",
        "revenue(store: str, rate: float = 1.0) -> float:\n    return rate * len(store)",
    ),
}
LINES = {
    "an added call": (15, 15, 5, 6, 8),
    "a removed call": (6, 6, 4, 8, 4),
    "another number of retries": (2, 2, 2, 2, 2),
    "retries that are new": (2, 2, 2, 2, 2),
    "another default": (2, 2, 2, 2, 2),
    "a renamed parameter of the pipeline": (4, 4, 0, 4, 4),
    "a renamed parameter of a task": (6, 6, 2, 2, 4),
}
"""Lines of the files for WRITTEN that an edit of the pipeline changes at most, with those that are new and those that are gone."""


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_pipeline_changes_few_lines(edit, workshop):
    def files(text):
        workshop.write(text)
        pipeline, file = load_entry(str(workshop.file))
        order = ExportOrder(target="", pipeline=pipeline, file=file, out=workshop.folder / "out.py")
        project = replace(workshop.project, settings=PROJECT.settings)
        asked = [
            {
                "target": target.partition("_")[0],
                "pods": target.endswith("_pods"),
                "image": IMAGES.get(target, ""),
            }
            for target in WRITTEN
        ]
        return [export(msgspec.structs.replace(order, **each), project).splitlines() for each in asked]

    assert SALES.count(EDITS[edit][0]) == 1
    pairs = zip(files(SALES), files(SALES.replace(*EDITS[edit])), strict=True)
    changed = [
        [
            line
            for line in difflib.unified_diff(before, after, n=0)
            if line.startswith(("+", "-")) and not line.startswith(("+++", "---")) and line.strip("+- ")
        ]
        for before, after in pairs
    ]
    assert all(len(lines) <= most for lines, most in zip(changed, LINES[edit], strict=True)), changed


# --- The command.


@pytest.mark.needs("cpu")
def test_wrong_options_are_refused_before_anything_is_written(workshop):
    workshop.write(
        "from hooke import pipeline, task\n@task\ndef one():\n    return 1\n@pipeline\ndef job():\n    return one()\n"
    )
    words = ["export", "airflow", str(workshop.file), "-o", "out.py"]
    for more, message in (
        (["--schedule", "daily"], "--schedule 'daily' has 1 field, "),
        (["--schedule", "0 25 * * *"], "--schedule '0 25 * * *': '25' is not a valid hour"),
        (["--secret", "A=b"], "--secret 'A=b' is not VARIABLE=SECRET:KEY"),
        (["--image", "a:1"], "pipeline 'job' cannot be exported"),
        (["--months", "3"], "months"),
    ):
        done = CliRunner().invoke(hooke, [*words, *more], obj=CommandSession(), standalone_mode=False)
        assert message in str(done.exception or done.stderr), done
        assert not Path("out.py").exists()
    assert (
        CliRunner()
        .invoke(
            hooke, [*words, "--schedule", "*/5 * * * MON-FRI"], obj=CommandSession(), standalone_mode=False
        )
        .return_value
        == 0
    )
    assert 'schedule="*/5 * * * 1-5"' in Path("out.py").read_text()
    done = CliRunner().invoke(
        hooke,
        ["export", "airflo", str(workshop.file), "-o", "x.py"],
        obj=CommandSession(),
        standalone_mode=False,
    )
    assert "no target 'airflo'" in str(done.exception)
