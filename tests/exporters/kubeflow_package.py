"""Runs a compiled package of Kubeflow Pipelines, one container after another: as processes here, or as whoever uses it starts them.

It knows what packages of `hooke export kubeflow --pods` have: parameters, constants with placeholders, loops and retries.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

__all__ = ["ContainerFailed", "Package", "processes", "with_outputs_at"]

INPUT = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
OUTPUT = re.compile(r"\{\{\$\.outputs\.parameters\['([^']+)'\]\.output_file\}\}")


class ContainerFailed(Exception):
    """A container ended with another code than 0."""


def processes(environment):
    """Starts the command of a container as a process here."""

    def start(container, platform, words, outputs):
        with tempfile.TemporaryDirectory() as folder:
            places = {name: f"{folder}/{name}" for name in outputs}
            command = with_outputs_at(places, words)
            done = subprocess.run(command, env=environment, check=False, timeout=300)
            if done.returncode:
                raise ContainerFailed(command)
            return {name: Path(at).read_text("utf-8") for name, at in places.items()}

    return start


def with_outputs_at(places, words):
    """The words of a command, with the files of its outputs: name -> path."""
    return [OUTPUT.sub(lambda found: places[found[1]], word) for word in words]


class Package:
    """A PipelineSpec as JSON, and the platform's part of the package if there is one.

    `start(container, platform, words, outputs)` runs a container, and returns the text of each output; the words still have the
    placeholders of outputs. It raises ContainerFailed. `ran` names the containers by the executor's first argument.
    """

    def __init__(self, spec, start, *, platform=None):
        self.components = spec["components"]
        self.executors = spec["deploymentSpec"]["executors"]
        self.root = spec["root"]
        found = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platform else {}
        self.platform = found
        self.start = start
        self.ran = []

    def run(self):
        """The parameters that the pipeline returns."""
        return self._dag(self.root, {})

    def _dag(self, component, given):
        done = {}
        waiting = dict(component["dag"]["tasks"])
        while waiting:
            name = next(
                name for name, task in waiting.items() if done.keys() >= {*task.get("dependentTasks", ())}
            )
            done[name] = self._task(waiting.pop(name), given, done)
        outputs = component["dag"].get("outputs", {}).get("parameters", {})
        chosen = {name: each["valueFromParameter"] for name, each in outputs.items()}
        return {
            name: done[each["producerSubtask"]][each["outputParameterKey"]] for name, each in chosen.items()
        }

    def _task(self, task, given, done):
        inputs, constants = {}, {}
        for name, each in task.get("inputs", {}).get("parameters", {}).items():
            if "runtimeValue" in each:
                constants[name] = each["runtimeValue"]["constant"]
            elif "componentInputParameter" in each:
                inputs[name] = given[each["componentInputParameter"]]
            else:
                made = each["taskOutputParameter"]
                inputs[name] = done[made["producerTask"]][made["outputParameterKey"]]
        inputs |= {name: filled(value, inputs) for name, value in constants.items()}
        component = self.components[task["componentRef"]["name"]]
        if "parameterIterator" not in task:
            return self._component(component, inputs, task)
        loop = task["parameterIterator"]
        items = inputs[loop["items"]["inputParameter"]]
        rounds = [self._component(component, inputs | {loop["itemInput"]: item}, {}) for item in items]
        return {
            name: [each[name] for each in rounds] for name in component["outputDefinitions"]["parameters"]
        }

    def _component(self, component, inputs, task):
        if "dag" in component:
            return self._dag(component, inputs)
        for _ in range(task.get("retryPolicy", {}).get("maxRetryCount", 0)):
            try:
                return self._container(component, inputs)
            except ContainerFailed:
                pass
        return self._container(component, inputs)

    def _container(self, component, inputs):
        label = component["executorLabel"]
        container = self.executors[label]["container"]
        words = [filled(word, inputs) for word in (*container["command"], *container["args"])]
        kinds = {
            name: each["parameterType"] for name, each in component["outputDefinitions"]["parameters"].items()
        }
        self.ran.append(inputs.get("target", "items"))
        texts = self.start(container, self.platform.get(label, {}), words, [*kinds])
        return {
            name: json.loads(text) if kinds[name] == "LIST" else text.strip() for name, text in texts.items()
        }


def filled(value, inputs):
    """A constant or a word of a command with the inputs in the places of placeholders."""
    if not isinstance(value, str):
        return value
    return INPUT.sub(lambda found: as_text(inputs[found[1]]), value)


def as_text(value):
    return value if isinstance(value, str) else json.dumps(value)
