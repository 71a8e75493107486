"""The table of routes: which one answers a path, and with which parameters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.services import Kinds

from hooke.serving.asgi import AsgiWire
from hooke.serving.http import Exchange, HttpOptions
from hooke.serving.limits import BodyMemory
from hooke.serving.replica import Replica
from hooke.serving.routes import Route, Routes
from hooke.serving.service import service_of


async def answer(exchange):
    raise AssertionError("nobody asks here")


def asked(path):
    wire = AsgiWire({"path": path, "method": "GET", "headers": []}, None, None)
    return Exchange(wire, HttpOptions(1, 1.0, BodyMemory(1)))


ROUTES = Routes(
    Route(path, {"GET": answer}) for path in ("/a", "/v/{name}", "/v/{name}/x.y/{other}", "/v/one")
)
part = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    "path", ["/", "", "/b", "/a/", "//a", "/v/", "/v/a/", "/v/a/x_y/b", "/v/a/x.y/b/c", "/v/a\n/"]
)
def test_other_paths_have_none(path):
    assert ROUTES.find(asked(path)) is None


@pytest.mark.needs("cpu")
@given(part, part)
def test_parameters_are_whole_parts_of_the_path(name, other):
    exchange = asked(f"/v/{name}/x.y/{other}")
    assert ROUTES.find(exchange).path == "/v/{name}/x.y/{other}"
    assert exchange.parameters == {"name": name, "other": other}


def test_a_path_without_parameters_goes_first():
    assert ROUTES.find(asked("/v/one")).path == "/v/one"
    assert ROUTES.find(asked("/v/two")).path == "/v/{name}"
    with pytest.raises(ValueError, match="/a is routed twice"):
        ROUTES.add(Route("/a", {"GET": answer}))


def test_all_that_a_replica_answers_can_be_listed():
    routes = {route.path: route.allow for route in Replica(service_of(Kinds)).routes}
    assert routes["/thread"] == "POST"
    assert routes["/-/health"] == routes["/-/ready"] == "GET, HEAD"
