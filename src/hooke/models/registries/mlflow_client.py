"""MLflow's registry through its own client: works for any registry, and is the only one that writes."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion as Known
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.models.utils import _save_example
from mlflow.pyfunc import FLAVOR_NAME, PY_VERSION

from hooke.base.errors import HookeError
from hooke.models.registry_protocol import RegisteredVersion
from hooke.tracking.mlflow_runs import RUN_TAG, run_filter

__all__ = ["MlflowRegistry"]

TRIES = 20
"""Attempts to create a version or an alias, because several processes may request the same at once."""
T = TypeVar("T")


class MlflowRegistry:
    """Reads and writes the registry at `uri`, which also has the runs. Raises HookeError if it cannot be opened."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._client.search_registered_models(max_results=1)
        except Exception as error:  # each kind of store has its own errors
            raise HookeError(
                "MLflow cannot open its registry",
                where=uri,
                why=f"{type(error).__name__}: {_first_line(error)}",
                fix="check that it is running, and check MLFLOW_TRACKING_URI, or uri in [tracking.mlflow] of hooke.toml",
            ) from error

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        found: list[str] = []
        token: str | None = None
        while True:
            page = self._asked("search_registered_models", page_token=token)
            found += [model.name for model in page]
            if not (token := page.token):
                return sorted(found)

    def versions(self, name: str) -> list[RegisteredVersion]:
        """The versions of one model, the newest first."""
        try:
            model = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise self._refused(error) from error
        aliases: dict[int, list[str]] = defaultdict(list)
        for alias, number in sorted(model.aliases.items()):
            aliases[int(number)].append(alias)
        found: list[RegisteredVersion] = []
        token: str | None = None
        while True:
            page = self._asked("search_model_versions", f"name = '{name}'", page_token=token)
            found += [_version(each, aliases[int(each.version)]) for each in page]
            if not (token := page.token):
                return sorted(found, key=lambda each: -each.number)

    def fetch(self, version: RegisteredVersion, file: str, target: Path) -> None:
        """Write one of the version's files to `target`."""
        location = self._asked("get_model_version_download_uri", version.name, str(version.number))
        try:
            fetched = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location}/{file}", dst_path=str(target.parent), tracking_uri=self.uri
            )
        except (MlflowException, OSError) as error:
            raise self._refused(error) from error
        Path(fetched).replace(target)

    def find_run(self, key: str, wait_s: float) -> tuple[str, str]:
        """MLflow's ids of the run with this key and of its experiment. Waits for it; empty if it does not appear."""
        deadline = time.monotonic() + wait_s
        while True:
            experiments = [each.experiment_id for each in self._asked("search_experiments")]
            for found in self._asked("search_runs", experiments, run_filter(key)):
                if found.data.tags[RUN_TAG] == key:
                    return found.info.run_id, found.info.experiment_id
            if time.monotonic() > deadline:
                return "", ""
            time.sleep(0.5)

    def metric_of_run(self, run: str, metric: str) -> float | None:
        """The last value of a metric in an MLflow run."""
        value: float | None = self._asked("get_run", run).data.metrics.get(metric)
        return value

    def describe(
        self, folder: Path, flavors: Mapping[str, Mapping[str, Any]], example: Any, answer: Any
    ) -> None:
        """Write MLflow's description into the model's folder: flavors, signature, input example."""
        model = Model()
        for name, facts in flavors.items():
            model.add_flavor(
                name, **facts, **({PY_VERSION: platform.python_version()} if name == FLAVOR_NAME else {})
            )
        if example is not None:
            _save_example(model, example, str(folder))
            model.signature = infer_signature(example, answer)
        model.save(str(folder / "MLmodel"))

    def create(
        self, folder: Path, *, name: str, run: str, experiment: str, tags: Mapping[str, str]
    ) -> RegisteredVersion:
        """Upload the folder to MLflow's artifacts and make it the newest version of `name`."""
        try:
            logged = self._client.create_logged_model(
                experiment or "0", name=name, source_run_id=run or None, tags=dict(tags)
            )
            self._client.log_model_artifacts(logged.model_id, str(folder))
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._ensure(name)
            return self._numbered(name, logged.model_id, run, tags)
        except (MlflowException, OSError) as error:
            raise self._refused(error) from error

    def give(self, version: RegisteredVersion, alias: str) -> None:
        """Move an alias to this version.

        MLflow refuses all but one of those who give a new alias at the same moment: it looks whether the alias is there, and then adds it.
        """
        try:
            _again(lambda: self._client.set_registered_model_alias(version.name, alias, str(version.number)))
        except (MlflowException, OSError) as error:
            raise self._refused(error) from error

    def _ensure(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _numbered(self, name: str, model: str, run: str, tags: Mapping[str, str]) -> RegisteredVersion:
        made = _again(
            lambda: self._client.create_model_version(
                name, f"models:/{model}", run_id=run or None, tags=dict(tags), model_id=model
            )
        )
        return _version(made, ())

    def _asked(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return getattr(self._client, method)(*arguments, **named)
        except (MlflowException, OSError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> HookeError:
        return HookeError(
            "MLflow's registry refused the request",
            where=self.uri,
            why=_first_line(error),
            fix="check that it is running and that you may write there",
        )


def _again(request: Callable[[], T]) -> T:
    """Repeat a request that MLflow refuses because another came at the same moment."""
    for _ in range(TRIES - 1):
        try:
            return request()
        except MlflowException:
            time.sleep(0.1)
    return request()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _version(known: Known, aliases: Any) -> RegisteredVersion:
    return RegisteredVersion(
        name=known.name,
        number=int(known.version),
        aliases=tuple(aliases),
        tags=dict(known.tags),
        mlflow_run=known.run_id or "",
        location=known.source or "",
        created_at=(known.creation_timestamp or 0) / 1000,
    )
