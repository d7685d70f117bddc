"""GET /v1/openapi.json: the HTTP interface as an OpenAPI 3.1 document.

Written by hand, path by path, and cut down to the paths that the application at this address
serves: with `server.internal_listen` the public one has no /v1/changes. Tests hold it to the routes
and to what the server answers.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kalam_notify.config.hooks import FORMATS
from kalam_notify.http.answers import JsonAnswer
from kalam_notify.http.openapi_schemas import SCHEMAS
from kalam_notify.version import __version__

PATH: Final = "/v1/openapi.json"

Operation = Mapping[str, Any]

_RETRY = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}}


def _json(schema: str, text: str) -> Operation:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "content": content}


def _text(text: str) -> Operation:
    return {"description": text, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _page(text: str) -> Operation:
    return {"description": text, "content": {"text/html": {"schema": {"type": "string"}}}}


def _module(text: str) -> Operation:
    return {"description": text, "content": {"text/javascript": {"schema": {"type": "string"}}}}


def _refused(*statuses: int) -> dict[str, Operation]:
    return {str(status): _REFUSALS[status] for status in statuses}


_REFUSALS: Final[Mapping[int, Operation]] = {
    400: _json("Error", "Not understood, or against a rule"),
    401: _json("Error", "No credentials, or some that do not hold"),
    403: _json("Error", "The role does not suffice"),
    404: _json("Error", "Nothing of that name"),
    405: _json("Error", "Another method is meant"),
    408: _json("Error", "The body stopped arriving"),
    410: _json("Error", "The log does not reach back so far"),
    413: _json("Error", "Body, batch or row beyond the limits"),
    415: _json("Error", "A media type, charset or encoding that is not understood"),
    426: _json("Error", "Ask for an upgrade to a WebSocket"),
    429: {**_json("Error", "Too much from here"), "headers": _RETRY},
    503: {**_json("Error", "Not now: try again"), "headers": _RETRY},
}
_CREDENTIALS: Final[list[Mapping[str, list[str]]]] = [{"bearer": []}, {"api_key": []}]
_LIMITS: Final = {"minimum": 1, "maximum": 1000}
_CHANGES: Final = {
    "application/json": {"schema": {"$ref": "#/components/schemas/Changes"}},
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "One change a line, each a JSON object"}
    },
    "application/cloudevents+json": {"schema": {"type": "object"}},
    "application/cloudevents-batch+json": {
        "schema": {"type": "array", "items": {"type": "object"}}
    },
}


def _header(name: str, text: str, schema: Mapping[str, Any]) -> Operation:
    return {"name": name, "in": "header", "description": text, "schema": schema}


def _query(
    name: str,
    text: str,
    schema: Mapping[str, Any] | None = None,
    *,
    required: bool = False,
) -> Operation:
    where = {"name": name, "in": "query", "description": text, "required": required}
    return {**where, "schema": schema or {"type": "string"}}


_PAGING: Final = [
    _query("limit", "Rows of a page, 100 by default", {"type": "integer", **_LIMITS}),
    _query("cursor", "next_cursor of the page before"),
]
_USER: Final = _query("user", "Of this user only")
_LAGGING: Final = _query(
    "lagging",
    "With, or without, a subscription that is not live",
    {"enum": ["true", "false"]},
)
_ADMINISTRATORS: Final = "Role dba and above; open on the internal address and under --dev."


def _list(schema: str, summary: str, *parameters: Operation) -> Operation:
    return {
        "summary": summary,
        "description": f"{_ADMINISTRATORS} Over all workers.",
        "security": [*_CREDENTIALS, {}],
        "parameters": [*parameters, *_PAGING],
        "responses": {"200": _json(schema, "A page"), **_refused(400, 401, 403, 503)},
    }


_FORMAT: Final = {
    **_query("format", "How the messages are to be read; else as they are recognised"),
    "schema": {"enum": list(FORMATS)},
}
_HOOK: Final = {
    "name": "name",
    "in": "path",
    "description": "One of ingest.hooks",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}
_OF_A_BATCH: Final = [
    _header(
        "Idempotency-Key",
        "The batch is stored once, however often it is posted with this key",
        {"type": "string", "minLength": 1, "maxLength": 256},
    ),
    _header(
        "Content-Encoding",
        "How the body is packed",
        {"enum": ["identity", "gzip", "x-gzip"]},
    ),
]

_PREFLIGHT: Final = {
    "summary": "What pages of other origins may ask",
    "responses": {"204": {"description": "In the headers"}},
}
_ASKED: Final = [
    _query("params", "Values for $1, $2, ...: a list as JSON"),
    _query("from", "A position to go on from"),
    _query("on_gap", "snapshot or error: what comes where the log does not reach back to it"),
    _query("snapshot", "false: live changes only"),
    _query("last_rows", "How many of the newest rows to begin with"),
    _query("batch_size", "Rows of a page"),
    _query("bigints", "string: integers beyond 2^53 as text"),
    _query("id", "What the messages call the subscription"),
]

PATHS: Final[Mapping[str, Mapping[str, Operation]]] = {
    "/livez": {
        "get": {"summary": "Whether the process answers", "responses": {"200": _text("It does")}}
    },
    "/client.js": {
        "get": {
            "summary": "The client for browsers, a module to import",
            "responses": {
                "200": _module("The client"),
                "304": {"description": "The one that If-None-Match names still holds"},
            },
        }
    },
    "/readyz": {
        "get": {
            "summary": "Whether it should get traffic",
            "responses": {"200": _text("Yes"), "503": _text("No, and why")},
        }
    },
    "/health": {
        "get": {
            "summary": "How the server is",
            "responses": {"200": _json("Health", "Ready"), "503": _json("Health", "Not ready")},
        }
    },
    "/metrics": {
        "get": {
            "summary": "Metrics of all workers, in Prometheus' text format",
            "description": "Role service and above; open with metrics.open and on the internal "
            "address.",
            "security": [*_CREDENTIALS, {}],
            "responses": {"200": _text("The metrics"), **_refused(401, 403, 503)},
        }
    },
    "/v1/ws": {
        "get": {
            "summary": "The WebSocket, with the messages of docs/protocol.md",
            "security": [{"bearer": []}, {}],
            "responses": {
                "101": {"description": "A WebSocket from here on"},
                **_refused(400, 401, 403, 426, 429, 503),
            },
        }
    },
    "/v1/stream": {
        "get": {
            "summary": "A subscription as Server-Sent Events",
            "description": "The messages of docs/protocol.md, each an event with its position.",
            "security": [{"bearer": []}, {}],
            "parameters": [
                _query("sql", "SELECT ...", required=True),
                *_ASKED,
                _header("Last-Event-ID", "Where to go on from", {"type": "string"}),
            ],
            "responses": {
                "200": {
                    "description": "Events, for as long as the connection stays",
                    "content": {"text/event-stream": {"schema": {"type": "string"}}},
                },
                **_refused(400, 401, 403, 404, 410, 429, 503),
            },
        },
        "options": _PREFLIGHT,
    },
    "/v1/poll": {
        "get": {
            "summary": "A subscription in requests of one answer each",
            "security": [{"bearer": []}, {}],
            "parameters": [
                _query("sql", "SELECT ...", required=True),
                *_ASKED,
                _query("wait", "Seconds to wait for a change, 25 at most"),
                _header("If-None-Match", "The answer that is held", {"type": "string"}),
            ],
            "responses": {
                "200": _json("Polled", "Messages, and the position for the next request"),
                "304": {"description": "The one that If-None-Match names still holds"},
                **_refused(400, 401, 403, 404, 410, 429, 503),
            },
        },
        "options": _PREFLIGHT,
    },
    "/v1/changes": {
        "post": {
            "summary": "Post changes",
            "description": "Role service and above. All of a batch is stored, in order, or none.",
            "security": _CREDENTIALS,
            "parameters": [
                _FORMAT,
                *_OF_A_BATCH,
            ],
            "requestBody": {"required": True, "content": _CHANGES},
            "responses": {
                "200": _json("Accepted", "Stored durably"),
                **_refused(400, 401, 403, 408, 413, 415, 429, 503),
            },
        },
        "options": {
            "summary": "Which methods there are",
            "responses": {"204": {"description": "In the header Allow"}},
        },
    },
    "/v1/hooks/{name}": {
        "post": {
            "summary": "Post changes that are signed, or come with a secret",
            "description": "As a post to /v1/changes, in any format. Signatures are those of "
            "Standard Webhooks.",
            "security": [{}],
            "parameters": [
                _HOOK,
                _header("webhook-id", "What the message is known again by", {"type": "string"}),
                _header("webhook-timestamp", "Unix time in seconds", {"type": "string"}),
                _header("webhook-signature", "v1,BASE64, one or several", {"type": "string"}),
                *_OF_A_BATCH,
            ],
            "requestBody": {"required": True, "content": _CHANGES},
            "responses": {
                "200": _json("Accepted", "Stored durably"),
                **_refused(400, 401, 403, 404, 408, 413, 415, 429, 503),
            },
        },
        "options": {
            "summary": "Which methods there are",
            "parameters": [_HOOK],
            "responses": {"204": {"description": "In the header Allow"}},
        },
    },
    "/v1/explain": {
        "get": {
            "summary": "How subscribers of a query are found",
            "description": "Role service and above.",
            "security": _CREDENTIALS,
            "parameters": [
                _query("sql", "SELECT ..., or EXPLAIN SELECT ...", required=True),
                _query("params", "Values for $1, $2, ...: a list as JSON"),
            ],
            "responses": {
                "200": _json("Explanation", "Its index, and what it shares"),
                **_refused(400, 401, 403),
            },
        }
    },
    "/v1/tables": {
        "get": _list("Tables", "The tables, with what is known of their columns"),
    },
    "/v1/connections": {
        "get": _list("Connections", "The connections, oldest first", _USER, _LAGGING),
    },
    "/v1/subscriptions": {
        "get": _list(
            "Subscriptions",
            "The subscriptions: how they are found, and how far they are",
            _USER,
            _query("table", "To this table only"),
            _query("connection", "Of the connection of this id only"),
            _LAGGING,
        ),
    },
    "/v1/connections/{id}": {
        "delete": {
            "summary": "Close a connection, with 1008 and a reason",
            "description": _ADMINISTRATORS,
            "security": [*_CREDENTIALS, {}],
            "parameters": [
                {
                    "name": "id",
                    "in": "path",
                    "required": True,
                    "description": "As /v1/connections tells it",
                    "schema": {"type": "string", "pattern": "^[0-9]+-[0-9a-f]+-[0-9]+$"},
                },
                _query("reason", "What its client is told, at most 120 bytes"),
            ],
            "responses": {
                "200": _json("Kicked", "It is being closed"),
                **_refused(400, 401, 403, 404, 503),
            },
        },
    },
    "/v1/why": {
        "get": {
            "summary": "What became of a change at a user's subscriptions, and why",
            "description": f"{_ADMINISTRATORS} Judged now, from the log: of subscriptions that "
            "have ended nothing is known.",
            "security": [*_CREDENTIALS, {}],
            "parameters": [
                _query("seq", "Of the change", {"type": "integer", "minimum": 1}, required=True),
                _query("user", "Whose subscriptions", required=True),
            ],
            "responses": {
                "200": _json("Reasons", "What became of it"),
                **_refused(400, 401, 403, 404, 503),
            },
        },
    },
    "/": {
        "get": {
            "summary": "The console, a page for browsers",
            "description": f"{_ADMINISTRATORS} To others the same page comes with 401 or 403, and "
            "asks for a token.",
            "security": [*_CREDENTIALS, {}],
            "responses": {
                "200": _page("The page"),
                "304": {"description": "The one that If-None-Match names still holds"},
                "401": _page("The page, which asks for a token"),
                "403": _page("The page, which asks for another token"),
            },
        }
    },
    "/console/{name}": {
        "get": {
            "summary": "A file of the console",
            "parameters": [
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "description": "main.js, console.css and the like",
                    "schema": {"type": "string"},
                }
            ],
            "responses": {
                "200": {
                    "description": "The file",
                    "content": {
                        kind: {"schema": {"type": "string"}}
                        for kind in ("text/javascript", "text/css", "image/svg+xml")
                    },
                },
                "304": {"description": "The one that If-None-Match names still holds"},
                **_refused(404),
            },
        }
    },
    "/v1/admin/console": {
        "get": {
            "summary": "What the console must know of the server",
            "description": _ADMINISTRATORS,
            "security": [*_CREDENTIALS, {}],
            "responses": {
                "200": {
                    "description": "Its release, and where the WebSocket is",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                **_refused(401, 403),
            },
        }
    },
    "/v1/admin/token": {
        "post": {
            "summary": "A token to try things with",
            "description": "Under --dev only.",
            "security": [*_CREDENTIALS, {}],
            "requestBody": {
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/WantedToken"}}
                },
            },
            "responses": {
                "200": _json("Token", "Signed with the key of this run"),
                **_refused(400, 401, 403, 413),
            },
        }
    },
    "/v1/admin/revoke": {
        "post": {
            "summary": "Let no token of a user, or not one token, hold any longer",
            "description": "Role dba and above; open on the internal address and under --dev. "
            "Connections with such a token are closed.",
            "security": [*_CREDENTIALS, {}],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Revocation"}}
                },
            },
            "responses": {
                "200": _json("Revoked", "It holds everywhere, and through restarts"),
                **_refused(400, 401, 403, 413, 503),
            },
        }
    },
    PATH: {
        "get": {
            "summary": "This document",
            "responses": {
                "200": {
                    "description": "OpenAPI 3.1",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
        }
    },
}


def document(paths: Iterable[str]) -> Mapping[str, Any]:
    """The description of these paths; of one that is not described there is no word."""
    served = set(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kalam-notify",
            "version": __version__,
            "summary": "Exact live queries over WebSocket, from row changes posted over HTTP",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path: PATHS[path] for path in PATHS if path in served},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def openapi_route(routes: Iterable[Route]) -> Route:
    """The route that describes these, and itself."""
    described = document([*(route.path for route in routes), PATH])

    async def openapi(request: Request) -> Response:
        return JsonAnswer(described)

    return Route(PATH, openapi)
