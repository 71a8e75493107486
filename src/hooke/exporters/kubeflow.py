"""Kubeflow Pipelines 2: a file that compiles to a package, of lightweight components, or with `--pods` of container components."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hooke.exporters.plan import ExportPlan, Refusal, Step, StepResult
from hooke.exporters.pod_settings import plain_pod
from hooke.exporters.source import CODE as CODE_CLASS
from hooke.exporters.source import Writer, joined_call, needs_code, said_by
from hooke.exporters.targets import Abilities, ExportTarget
from hooke.images.contents import CODE

__all__ = ["TARGET"]

MOST_ITEMS = 200
"""Of a map whose items are known: each is a task of its own in the package."""


def _able(_plan: ExportPlan) -> Abilities:
    return Abilities(
        flavours=("reference",),
        parameters=False,
        schedule=False,
        most_items=MOST_ITEMS,
        reasons={
            "flavours": "a component of KFP is a function without its module, and its values are JSON",
            "schedule": "a package has no schedule; in KFP, make a recurring run of it",
            "most_items": f"each item of a known list is a task of the package, at most {MOST_ITEMS}; KFP loops over a list that a task makes",
        },
    )


def _refusals(plan: ExportPlan) -> list[Refusal]:
    found = [each for each in _of_pods(plan) if isinstance(each, Refusal)]
    return found + [
        Refusal(
            what=f"{step.name}: it is mapped over several lists, of which one exists only at run time",
            why="a loop of KFP goes over one list",
            fix="make one list of tuples in a task, and map over that",
        )
        for step in plan.steps
        if step.is_mapped and step.length is None and len(step.columns) > 1
    ]


LIGHTWEIGHT = '''
@dsl.component(base_image=IMAGE)
def hooke_exec(target: str, inputs: str, timeout: float) -> str:
    """Run a task by `hooke exec`; the output is the reference of its result; of a file alone, that of its only input."""
    import os
    import subprocess

    done = subprocess.run(
        [os.environ.get("HOOKE", "hooke"), "exec", target, "--in", "-", "--out", "-"],
        cwd=os.environ.get("HOOKE_PROJECT", "/app"),
        input=inputs,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout or None,
    )
    return done.stdout.splitlines()[-1]
'''
LIGHTWEIGHT_LOOPS = '''
@dsl.component(base_image=IMAGE)
def hooke_items(file: str, value: str) -> list:
    """The references of the items of a list."""
    import json
    import os
    import subprocess

    done = subprocess.run(
        [os.environ.get("HOOKE", "hooke"), "exec", file, "--in", f"value={value!r}", "--items", "-"],
        cwd=os.environ.get("HOOKE_PROJECT", "/app"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@dsl.component(base_image=IMAGE)
def hooke_gather(file: str, items: list) -> str:
    """The reference of the list of what a loop returned."""
    import os
    import subprocess

    done = subprocess.run(
        [os.environ.get("HOOKE", "hooke"), "exec", file, "--in", f"value={items!r}", "--out", "-"],
        cwd=os.environ.get("HOOKE_PROJECT", "/app"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]
'''
PODS = '''
EXEC = 'cd "${HOOKE_PROJECT:-/app}"; printf "%s" "$1" | timeout "$2" "${HOOKE:-hooke}" exec "$0" --in - --out "$3"'


@dsl.container_component
def hooke_exec(target: str, inputs: str, timeout: float, reference: dsl.OutputPath(str)):
    """Run a task by `hooke exec`; the output is the reference of its result; of a file alone, that of its only input."""
    return dsl.ContainerSpec(
        image=IMAGE, command=["sh", "-ec", EXEC], args=[target, inputs, timeout, reference]
    )
'''
PODS_LOOPS = '''
VALUE = 'cd "${HOOKE_PROJECT:-/app}"; "${HOOKE:-hooke}" exec "$0" --in value="$1" "$2" "$3"'


@dsl.container_component
def hooke_items(file: str, value: str, references: dsl.OutputPath(list)):
    """The references of the items of a list."""
    return dsl.ContainerSpec(image=IMAGE, command=["sh", "-ec", VALUE], args=[file, value, "--items", references])


@dsl.container_component
def hooke_gather(file: str, items: list, reference: dsl.OutputPath(str)):
    """The reference of the list of what a loop returned."""
    return dsl.ContainerSpec(image=IMAGE, command=["sh", "-ec", VALUE], args=[file, items, "--out", reference])
'''

RESULT = '''
class Result(str):
    """The reference that a task returns, as KFP's placeholder, which may be a part of a text. `output` is KFP's own."""

    def __new__(cls, output):
        made = super().__new__(cls, str(output))
        made.output = output
        return made


def placed(task):
    """The task with what all pods have."""
    task.set_caching_options(False)  # Hooke's own cache decides
    task.set_cpu_request("1")
PLACED    return task


def started(target, needs, /, **inputs):
    """A task of KFP that runs a task of Hooke. `needs` has its retries, timeout, cpus, memory (bytes) and gpus."""
    lines = "".join(f"{name}={value!r}\\n" for name, value in inputs.items())
    lines = lines.replace("$", "\\\\x24")  # else Kubernetes would fill in $(NAME), and make one $ of two
    task = placed(hooke_exec(target=target, inputs=lines, timeout=needs.get("timeout", 0.0)))
    task.set_display_name(target.rpartition(":")[2] if ":" in target else "result")
'''
OR_FAILED = (
    ("timeout: float", "timeout: float, on_error: str"),
    ('"exec", target,', '"exec", target, "--on-error", on_error,'),
    ('exec "$0" --in - --out', 'exec "$0" --on-error "$4" --in - --out'),
    ("timeout, reference]", "timeout, reference, on_error]"),
    (
        '    task = placed(hooke_exec(target=target, inputs=lines, timeout=needs.get("timeout", 0.0)))\n',
        """    tries = {"timeout": needs.get("timeout", 0.0), "on_error": needs.get("on_error", "raise")}
    task = placed(hooke_exec(target=target, inputs=lines, **tries))
""",
    ),
    ("cpus, memory (bytes)", "on_error, cpus, memory (bytes)"),
)
"""How the parts above are written where an item may fail: old, new."""
NEEDS = {
    "retries": '    if "retries" in needs:\n        task.set_retry(needs["retries"])\n',
    "cpus": '    if "cpus" in needs:\n        task.set_cpu_request(needs["cpus"]).set_cpu_limit(needs["cpus"])\n',
    "memory": '    if "memory" in needs:\n        task.set_memory_request(needs["memory"]).set_memory_limit(needs["memory"])\n',
    "gpus": '    if "gpus" in needs:\n        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(needs["gpus"])\n',
}
HOOKE = '''    return task


def hooke(target, needs, /, **inputs):
    """The result of a task, by reference; of a file alone, its only input."""
    return Result(started(target, needs, **inputs).output)
'''
LOOPS = '''

def items(value):
    """The references of the items of a list that exists only at run time."""
    return placed(hooke_items(file=FILE, value=str(value))).output


def loop(target, needs, over, item, /, **inputs):
    """The reference of the list of a task's results for each of the items; `item` is the parameter that gets one."""
    with dsl.ParallelFor(over) as each:
        task = started(target, needs, **{item: str(each)}, **inputs)
    return Result(placed(hooke_gather(file=FILE, items=dsl.Collected(task.output))).output)
'''


class _PackageWriter(Writer):
    """A map over a known list is a list of tasks; another one is a loop, whose result is one reference to a list."""

    def __init__(self, plan: ExportPlan) -> None:
        super().__init__(plan)
        self._mapped = {name: step for name, step in self._mapped.items() if step.length is not None}

    def step(self, step: Step) -> str:
        """The call of a step, as an expression."""
        if step.kind == "list":
            return self.call("items", [self.value(step.arguments["value"])], {}, indent=4)
        target = "FILE" if step.entry is None else f'"{step.entry.target}"'
        args = [target, _needs(step)]
        if not step.is_mapped:
            return self.call("hooke", args, step.arguments, indent=4)
        if step.name not in self._mapped:
            [(item, column)] = step.columns.items()
            return self.call("loop", [*args, self._looped(column), f'"{item}"'], step.arguments, indent=4)
        names = {name: f"{name}_item" if name in step.uses else name for name in step.columns}
        parts = [*args, *(f"{name}={item}" for name, item in names.items())]
        call = self.call("hooke", parts, step.arguments, indent=8)
        columns = [self.value(column) for column in step.columns.values()]
        over = columns[0] if len(columns) == 1 else f"zip({', '.join(columns)}, strict=True)"
        line = f"[{call} for {', '.join(names.values())} in {over}]"
        if "\n" not in line and len(line) < 90:
            return line
        return f"[\n        {call}\n        for {', '.join(names.values())} in {over}\n    ]"

    def _looped(self, column: Any) -> str:
        """What KFP loops over: the items of a `list` step, or those of another loop."""
        text = self.value(column)
        is_listed = isinstance(column, StepResult) and self._plan.step(column.step).kind == "list"
        return text if is_listed else f"items({text})"


def _needs(step: Step) -> str:
    found: dict[str, Any] = {
        "retries": step.retries,
        "timeout": step.timeout_s,
        "on_error": step.on_error if step.on_error == "continue" else None,
        "cpus": f"{step.cpus * step.processes:g}" if step.cpus * step.processes != 1 else None,
        "memory": str(step.memory * step.processes) if step.memory is not None else None,
        "gpus": int(step.gpus) * step.processes,
    }
    return repr({name: value for name, value in found.items() if value})


def _write(plan: ExportPlan, out: Path) -> str:
    writer = _PackageWriter(plan)
    steps = "".join(f"    {step.name} = {writer.step(step)}\n" for step in plan.steps)
    returned, end = _end(plan, writer)
    name = re.sub(r"[^a-z0-9]+", "-", plan.name.lower()).strip("-")
    pipeline = f'\n\n@dsl.pipeline(name="{name}")\ndef main(){returned}:\n{steps}{end}'
    loops = "loop(" in steps or "items(" in steps
    first = PODS if plan.pods else LIGHTWEIGHT
    more = (PODS_LOOPS if plan.pods else LIGHTWEIGHT_LOOPS) if loops else ""
    needs = "".join(text for need, text in NEEDS.items() if f"'{need}'" in steps)
    constant = f'FILE = "{plan.file}"\n' if "FILE" in steps + end or loops else ""
    parts = [
        _docstring(plan, out),
        f"from kfp import compiler, dsl, kubernetes\n\nIMAGE = {plan.image!r}\n{constant}\n",
        f"{CODE_CLASS}\n" if needs_code(steps) else "",
        f"{_or_failed(first, plan)}{chr(10) if more else ''}{more}\n{_or_failed(RESULT.replace('PLACED', _placed(plan)), plan)}{needs}{HOOKE}{LOOPS if loops else ''}",
        pipeline,
        '\n\nif __name__ == "__main__":\n    compiler.Compiler().compile(main, sys.argv[1])\n',
    ]
    return "".join(parts)


def _or_failed(text: str, plan: ExportPlan) -> str:
    """A part of the file, where an item may fail."""
    if any(step.on_error == "continue" for step in plan.steps):
        for old, new in OR_FAILED:
            text = text.replace(old, new)
    return text


def _docstring(plan: ExportPlan, out: Path) -> str:
    return f'''"""{said_by(plan, "kubeflow")}

Each task runs by `hooke exec` in a pod of the image, which has the project in /{CODE}. Values pass through the store of the project's
hooke.toml, to which the pods need access.

    python {out.name} PACKAGE.yaml    compiles the package
"""

import sys

'''


def _end(plan: ExportPlan, writer: _PackageWriter) -> tuple[str, str]:
    """The annotation of what the pipeline returns, and its last lines."""
    if plan.output is None:
        return "", "" if plan.steps else "    pass\n"
    last = plan.step(plan.output.step)
    if last.is_mapped and last.length is not None:
        value = writer.call("hooke", ["FILE", "{}"], {"value": plan.output}, indent=4)
        return " -> str", f"    return {value}.output\n"
    return " -> str", f"    return {last.name}.output\n"


# --- What all pods have.


def _placed(plan: ExportPlan) -> str:
    return "".join(f"    {line}\n" for line in _of_pods(plan) if isinstance(line, str))


def _of_pods(plan: ExportPlan) -> Iterator[str | Refusal]:
    """The lines of `placed`, and what the place says that KFP cannot say. What it leaves as Hooke has it is up to KFP's cluster."""
    own, spec = plain_pod()["spec"], plan.pod["spec"]
    [own_container], [container, *others] = own["containers"], spec["containers"]
    yield from _of_container(container, own_container, {each["name"]: each for each in spec["volumes"]})
    for each in (*others, *spec.get("initContainers", ())):
        yield _unsaid(f"the container {each['name']}")
    for key, value in plan.pod.get("metadata", {}).items():
        yield from _about(key, value)
    for key, value in spec.items():
        if key not in ("containers", "initContainers", "volumes") and value != own.get(key):
            yield from _scheduled(key, value)


def _of_container(
    container: Mapping[str, Any], own: Mapping[str, Any], volumes: Mapping[str, Any]
) -> Iterator[str | Refusal]:
    for each in container["env"]:
        if each not in own["env"]:
            yield _variable(each)
    for each in container["volumeMounts"]:
        yield from _mount(each, volumes.get(each["name"], {}))
    for key, value in container.items():
        if key == "imagePullPolicy":
            yield _said("set_image_pull_policy", policy=value)
        elif key not in ("env", "name", "volumeMounts") and value != own.get(key):
            yield _unsaid(f"{key} of the container")


def _said(function: str, **options: Any) -> str:
    """A call of kfp-kubernetes."""
    given = [f"{name}={value!r}" for name, value in options.items()]
    return joined_call(f"kubernetes.{function}", ["task", *given], indent=4)


def _unsaid(what: str, fix: str = "") -> Refusal:
    return Refusal(
        what=f"pod_template: {what}",
        why="a package of KFP cannot say it",
        fix=fix or "leave it out, or describe these pods by another place and name that with --place",
    )


def _variable(given: Mapping[str, Any]) -> str | Refusal:
    name, source = given["name"], given.get("valueFrom", {})
    match source:
        case {"secretKeyRef": {"name": secret, "key": key, **more}}:
            return _said("use_secret_as_env", secret_name=secret, secret_key_to_env={key: name}, **more)
        case {"configMapKeyRef": {"name": found, "key": key, **more}}:
            return _said(
                "use_config_map_as_env", config_map_name=found, config_map_key_to_env={key: name}, **more
            )
        case {"fieldRef": {"fieldPath": path}}:
            return _said("use_field_path_as_env", env_name=name, field_path=path)
    if source:
        return _unsaid(f"valueFrom of the variable {name}")
    parts = [repr(name), repr(given.get("value", ""))]
    return joined_call("task.set_env_variable", parts, indent=4)


def _mount(given: Mapping[str, Any], volume: Mapping[str, Any]) -> Iterator[str | Refusal]:
    """The mount of a volume; one that is read only is one to write to, as KFP mounts all claims."""
    at = {"mount_path": given["mountPath"]}
    more = given.keys() - {"mountPath", "name", "readOnly"}
    kind = {name: each for name, each in volume.items() if name != "name"}
    match kind:
        case {"persistentVolumeClaim": {"claimName": claim}} if more <= {"subPath"}:
            part = {"sub_path": given["subPath"]} if more else {}
            yield _said("mount_pvc", pvc_name=claim, **at, **part)
        case {"emptyDir": {**limits}} if not more and limits.keys() <= {"medium", "sizeLimit"}:
            names = {"medium": "medium", "sizeLimit": "size_limit"}
            if given["name"] != "tmp" or limits:  # which is writable here
                found = {names[name]: each for name, each in limits.items()}
                yield _said("empty_dir_mount", volume_name=given["name"], **at, **found)
        case {"secret": {"secretName": name, **rest}} if not more and rest.keys() <= {"optional"}:
            yield _said("use_secret_as_volume", secret_name=name, **at, **rest)
        case {"configMap": {"name": name, **rest}} if not more and rest.keys() <= {"optional"}:
            yield _said("use_config_map_as_volume", config_map_name=name, **at, **rest)
        case _:
            yield _unsaid(
                f"the volume {given['name']} at {given['mountPath']}",
                "a whole claim or a part of one (subPath), an empty folder, or a whole Secret or ConfigMap",
            )


def _about(key: str, value: Any) -> Iterator[str | Refusal]:
    """Of the pod's metadata."""
    if key in ("annotations", "labels"):
        kind = key.removesuffix("s")
        for name, each in value.items():
            yield _said(f"add_pod_{kind}", **{f"{kind}_key": name, f"{kind}_value": each})
    else:
        yield _unsaid(f"{key} of metadata")


def _scheduled(key: str, value: Any) -> Iterator[str | Refusal]:
    """Of the pod's spec: which nodes it may be on, and who pulls its image."""
    if key == "nodeSelector":
        for name, each in value.items():
            yield _said("add_node_selector", label_key=name, label_value=each)
    elif key == "tolerations":
        for each in value:
            found = {
                ("toleration_seconds" if name == "tolerationSeconds" else name): at
                for name, at in each.items()
            }
            yield _said("add_toleration", **found)
    elif key == "imagePullSecrets":
        yield _said("set_image_pull_secrets", secret_names=[each["name"] for each in value])
    elif key == "serviceAccountName":
        yield _unsaid(key, "leave it out: in KFP, whoever starts a run chooses its service account")
    else:
        yield _unsaid(key)


TARGET = ExportTarget(title="Kubeflow Pipelines", able=_able, write=_write, refusals=_refusals, pods="always")
"""The target `kubeflow`."""
