"""MLflow's registry on a server, read by HTTP without MLflow, whose import takes seconds instead of milliseconds."""

from __future__ import annotations

import base64
import json
import shutil
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

from hooke.base.errors import HookeError, MissingObject
from hooke.models.registry_protocol import RegisteredVersion

__all__ = ["RestRegistry"]

API = "api/2.0/mlflow"
ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
TIMEOUT_S = 30.0
PAGE = 200


class RestRegistry:
    """Reads the server at `uri`. `environment` may have a user or a token, in the variables of MLflow's client.

    `elsewhere` fetches files that the server does not serve.
    """

    def __init__(
        self,
        uri: str,
        environment: Mapping[str, str],
        *,
        elsewhere: Callable[[RegisteredVersion, str, Path], None],
    ) -> None:
        self.uri = uri.rstrip("/")
        self._headers = _authorization(environment)
        self._elsewhere = elsewhere

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        models = self._pages("registered-models/search", "registered_models", max_results=PAGE)
        return sorted(model["name"] for model in models)

    def versions(self, name: str) -> list[RegisteredVersion]:
        """The versions of one model, the newest first."""
        aliases = defaultdict(list)
        try:
            model = self._asked("registered-models/get", name=name)["registered_model"]
        except MissingObject:
            return []
        for each in model.get("aliases", ()):
            aliases[int(each["version"])].append(each["alias"])
        found = [
            RegisteredVersion(
                name=name,
                number=int(each["version"]),
                aliases=tuple(sorted(aliases[int(each["version"])])),
                tags={tag["key"]: tag.get("value", "") for tag in each.get("tags", ())},
                mlflow_run=each.get("run_id", ""),
                location=each.get("source", ""),
                created_at=int(each.get("creation_timestamp", 0)) / 1000,
            )
            for each in self._pages(
                "model-versions/search", "model_versions", filter=f"name = '{name}'", max_results=PAGE
            )
        ]
        return sorted(found, key=lambda each: -each.number)

    def fetch(self, version: RegisteredVersion, file: str, target: Path) -> None:
        """Write one of the version's files to `target`."""
        answer = self._asked(
            "model-versions/get-download-uri", name=version.name, version=str(version.number)
        )
        location = urlsplit(answer["artifact_uri"])
        if location.scheme != "mlflow-artifacts" or location.netloc:
            self._elsewhere(version, file, target)
            return
        path = f"{ARTIFACTS}/{quote(location.path.strip('/'))}/{quote(file)}"
        with self._open(path) as answered, target.open("wb") as out:
            shutil.copyfileobj(answered, out)

    def _pages(self, path: str, field: str, **question: object) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            answer = self._asked(path, **question, **({"page_token": token} if token else {}))
            yield from answer.get(field, ())
            token = answer.get("next_page_token", "")
            if not token:
                return

    def _asked(self, path: str, **question: object) -> dict[str, Any]:
        with self._open(f"{API}/{path}?{urlencode(question)}") as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    @contextmanager
    def _open(self, path: str) -> Iterator[HTTPResponse]:
        request = urllib.request.Request(f"{self.uri}/{path}", headers=self._headers)  # noqa: S310 - only http(s) URIs reach this
        try:
            with _opener.open(request, timeout=TIMEOUT_S) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error, path) from error
        except (
            urllib.error.URLError,
            TimeoutError,
            ConnectionError,
            HTTPException,
            json.JSONDecodeError,
        ) as error:
            raise HookeError(
                "MLflow's server does not answer",
                where=self.uri,
                why=f"{type(error).__name__}: {getattr(error, 'reason', error)}",
                fix="check that it is running, and check MLFLOW_TRACKING_URI. Aliases are looked up each time and not cached",
            ) from error

    def _refused(self, error: urllib.error.HTTPError, path: str) -> HookeError:
        if error.code == 404:
            return MissingObject(
                "MLflow's server does not have it", where=f"{self.uri}/{path.partition('?')[0]}"
            )
        fix = ""
        if _origin(error.url) != _origin(self.uri):
            fix = (
                f"it sent the request on to {error.url}, and another server does not get your credentials: "
                "set MLFLOW_TRACKING_URI to the server that answers itself"
            )
        elif error.code in (401, 403):
            fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return HookeError(
            "MLflow's server refused the request", where=self.uri, why=f"{error.code} {error.reason}", fix=fix
        )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: who gets what a request carries."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _OwnCredentials(urllib.request.HTTPRedirectHandler):
    """Follows redirects. Another scheme, host or port does not get the credentials, which are only for this server."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request at the new address. Raises HTTPError for a redirect that is not one of HTTP."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and _origin(newurl) != _origin(req.full_url):
            following.remove_header("Authorization")
        return following


_opener = urllib.request.build_opener(_OwnCredentials())


def _authorization(environment: Mapping[str, str]) -> dict[str, str]:
    if user := environment.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    return {}
