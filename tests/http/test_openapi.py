"""The API's description: it has every route, and the server answers as it says."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from helpers.application import application
from helpers.server import Server, running_server
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.routing import Route

from kalam_notify.config import Config, ServerSettings
from kalam_notify.http import openapi

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("described")) as it:
        yield it


@pytest.fixture(scope="module")
def api(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}{openapi.PATH}")


OPERATIONS = [
    pytest.param(path, method, id=f"{method} {path}")
    for path, operations in openapi.PATHS.items()
    for method in operations
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_server_answers_as_it_says(server: Server, api: Any, path: str, method: str) -> None:
    if path not in api.raw_schema["paths"]:
        pytest.fail(f"{path} is described, but nobody serves it")
    headers = {"Authorization": f"Bearer {server.token('ops', 'dba')}"}
    if path == "/v1/ws":
        headers = {}  # what is asked is a plain GET

    @given(case=api[path][method].as_strategy())
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS, timeout=60)

    ask()


def test_it_is_open_and_of_this_release(server: Server) -> None:
    answer = server.request("GET", openapi.PATH)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["openapi"].startswith("3.1")
    assert answer.json["info"]["version"] == server.request("GET", "/health").json["version"]


def test_without_credentials_what_is_closed_says_so(server: Server) -> None:
    told = server.request("GET", openapi.PATH).json["paths"]
    for path, operations in told.items():
        for method, operation in operations.items():
            wanted = operation.get("security", [{}])
            if {} not in wanted:
                answer = server.request(method.upper(), path, b"" if method == "post" else None)
                assert answer.status == 401, (method, path)


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> list[Route]:
    """The routes of the applications that are made meanwhile."""
    made: list[Route] = []

    def listen(every: Iterable[Route]) -> Route:
        made.extend(every)
        return openapi.openapi_route(every)

    monkeypatch.setattr("kalam_notify.endpoints.openapi_route", listen)
    return made


async def test_every_route_is_described_with_its_methods(
    routes: list[Route], tmp_path: Path
) -> None:
    async with application(Config(server=ServerSettings(data_dir=tmp_path))):
        pass
    assert routes
    for route in routes:
        assert route.path in openapi.PATHS, f"{route.path} is not in http/openapi.py"
        methods = {method.lower() for method in (route.methods or set()) - {"HEAD"}}
        assert methods <= openapi.PATHS[route.path].keys(), route.path


async def test_an_address_describes_what_it_serves(routes: list[Route], tmp_path: Path) -> None:
    async with application(Config(server=ServerSettings(data_dir=tmp_path))):
        pass
    told = openapi.document(route.path for route in routes)["paths"]
    assert set(told) == {route.path for route in routes}
    assert set(openapi.document(["/livez"])["paths"]) == {"/livez"}


def test_every_reference_leads_somewhere() -> None:
    text = openapi.document(openapi.PATHS)

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (value for key, value in node.items() if key == "$ref")
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list | tuple):
            for value in node:
                yield from references(value)

    named = {one.removeprefix("#/components/schemas/") for one in references(text)}
    assert named == set(text["components"]["schemas"])
