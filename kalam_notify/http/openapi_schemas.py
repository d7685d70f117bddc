"""The bodies of the HTTP interface as JSON Schema, for `openapi`."""

from collections.abc import Mapping
from typing import Any, Final

from kalam_notify.http.rules import KIND_OF

_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_SECONDS: Final = {"type": "number", "minimum": 0, "description": "Seconds"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_SEQ: Final = {"type": ["integer", "null"], "minimum": 1, "maximum": 2**53 - 1}
_ROW: Final = {
    "type": "object",
    "description": "Column -> value. Names beginning with _ are refused, and so are integers "
    "outside of -2^63 .. 2^64-1",
    "additionalProperties": True,
}
_NULLABLE_ROW: Final = {**_ROW, "type": ["object", "null"]}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Any:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


def _page(name: str, row: Mapping[str, Any]) -> Any:
    rows = {"type": "array", "items": _object(row)}
    cursor = {**_TEXT_OR_NULL, "description": "For the next page; null: this is the last"}
    return _object({name: rows, "next_cursor": cursor})


SCHEMAS: Final[Mapping[str, Any]] = {
    "Change": {
        **_object(
            {
                "table": {**_TEXT, "description": "namespace.name, parts quoted where need be"},
                "change_type": {"enum": [*KIND_OF]},
            },
            {
                "row_data": {**_NULLABLE_ROW, "description": "insert, update: the whole new row"},
                "old_data": {
                    **_NULLABLE_ROW,
                    "description": "delete: the old row, its primary key at least",
                },
                "user_id": {
                    "type": ["string", "null"],
                    "minLength": 1,
                    "maxLength": 128,
                    "description": "Whose row it is: required for a USER table, refused for others",
                },
                "id": {
                    "type": ["string", "null"],
                    "minLength": 1,
                    "maxLength": 256,
                    "description": "A change of an id seen before is not stored again",
                },
                "unchanged": {
                    "type": ["array", "null"],
                    "items": _TEXT,
                    "description": "Columns that row_data leaves out: they keep their values",
                },
            },
        ),
        "examples": [
            {"table": "app.orders", "change_type": "insert", "row_data": {"id": 1}, "id": "evt-1"}
        ],
    },
    "Changes": {
        "oneOf": [
            {"$ref": "#/components/schemas/Change"},
            {"type": "array", "items": {"$ref": "#/components/schemas/Change"}},
        ]
    },
    "Polled": _object(
        {
            "messages": {"type": "array", "items": {"type": "object"}},
            "position": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
        }
    ),
    "Accepted": _object(
        {"accepted": _COUNT, "duplicates": _COUNT, "first_seq": _SEQ, "last_seq": _SEQ}
    ),
    "Error": _object(
        {
            "error": _object(
                {
                    "code": {**_TEXT, "pattern": "^[A-Z_]+$"},
                    "message": {**_TEXT, "minLength": 1},
                },
                {
                    "index": {**_COUNT, "description": "Which change of the batch, from 0"},
                    "field": {**_TEXT, "description": "A dotted path into the change"},
                },
            )
        }
    ),
    "Health": _object(
        {
            "status": {**_TEXT, "description": "ok, or why it is not ready"},
            "version": _TEXT,
            "api_version": {"const": "v1"},
            "worker": {"type": "integer", "minimum": 1},
            "workers": {"type": "integer", "minimum": 1},
            "workers_running": _COUNT,
            "uptime_seconds": {"type": "number"},
            "last_seq": _COUNT,
            "position": _COUNT,
            "connections": _COUNT,
            "lagging_subscriptions": _COUNT,
            "ingest": {"type": "object"},
            "log": {"type": "object"},
        }
    ),
    "Explanation": _object(
        {
            "table": _TEXT,
            "index": {},
            "residual": {},
            "plans": _COUNT,
            "subscribers_of_this_plan": _COUNT,
            "live_subscribers_of_this_plan": _COUNT,
        }
    ),
    "Tables": _page(
        "tables",
        {
            "table": _TEXT,
            "type": {"enum": ["shared", "user"]},
            "access": _TEXT_OR_NULL,
            "primary_key": {"type": "array", "items": _TEXT},
            "columns": {"type": ["array", "null"]},
            "seen_columns": {"type": "array", "items": _TEXT},
            "indexes": {"type": "array"},
            "policy": _TEXT_OR_NULL,
            "max_age": {"type": ["number", "null"], "description": "Seconds"},
            "declared": {"type": "boolean"},
            "subscriptions": _COUNT,
            "changes": {**_COUNT, "description": "Stored since the workers started"},
        },
    ),
    "Connections": _page(
        "connections",
        {
            "id": _TEXT,
            "user": {**_TEXT_OR_NULL, "description": "null: anonymous"},
            "role": _TEXT,
            "address": _TEXT,
            "age": _SECONDS,
            "bytes_waiting": {**_COUNT, "description": "For its socket to take"},
            "subscriptions": _COUNT,
            "lagging": {**_COUNT, "description": "How many of these are not live"},
        },
    ),
    "Subscriptions": _page(
        "subscriptions",
        {
            "id": {**_TEXT, "description": "The client's own"},
            "connection": {**_TEXT, "description": "The connection's id"},
            "user": _TEXT_OR_NULL,
            "address": _TEXT_OR_NULL,
            "table": _TEXT,
            "sql": _TEXT,
            "plan": _object(
                {
                    "filter": {**_TEXT, "description": "In normal form, the policy included"},
                    "columns": {"type": ["array", "null"]},
                    "subscribers": _COUNT,
                    "live_subscribers": _COUNT,
                    "demoted": {"type": "boolean"},
                }
            ),
            "index": _TEXT,
            "residual": _TEXT_OR_NULL,
            "state": {"enum": ["loading", "catching_up", "live", "closed"]},
            "position": {"type": ["integer", "null"]},
            "seconds_behind": _SECONDS,
            "bytes_behind": {**_COUNT, "description": "An estimate: of the log beyond position"},
            "bytes_waiting": _COUNT,
            "age": _SECONDS,
        },
    ),
    "Kicked": _object({"id": _TEXT, "code": {"const": 1008}, "reason": _TEXT}),
    "Reasons": _object(
        {
            "seq": _COUNT,
            "user": _TEXT,
            "verdict": {**_TEXT, "description": "The answer in a sentence"},
            "change": {"type": "object"},
            "log": {"type": "array", "description": "The first and the last seq that it holds"},
            "connections": {**_COUNT, "description": "Of the user, now"},
            "other_subscriptions": {**_COUNT, "description": "Of the user, to other tables"},
            "more": _COUNT,
            "subscriptions": {
                "type": "array",
                "items": _object(
                    {
                        "id": _TEXT,
                        "connection": _TEXT,
                        "sql": _TEXT,
                        "state": _TEXT,
                        "position": {"type": ["integer", "null"]},
                        "start": {"type": ["integer", "null"]},
                        "seen_as": _TEXT_OR_NULL,
                        "outcome": _TEXT,
                        "why": _TEXT,
                    },
                    {"terms": {"type": "array"}},
                ),
            },
        }
    ),
    "WantedToken": {
        "type": "object",
        "properties": {
            "user": {**_TEXT, "minLength": 1, "maxLength": 128},
            "role": {"enum": ["user", "service", "dba", "system"]},
            "claims": {"type": "object"},
        },
    },
    "Token": _object({"token": _TEXT, "user": _TEXT, "role": _TEXT, "seconds": {"type": "number"}}),
    "Revocation": {
        "type": "object",
        "properties": {
            "user": {**_TEXT, "minLength": 1, "maxLength": 1024},
            "token_id": {**_TEXT, "minLength": 1, "maxLength": 1024},
            "until": {"type": "number", "description": "Unix time in seconds, to come"},
        },
        "oneOf": [{"required": ["user"]}, {"required": ["token_id"]}],
    },
    "Revoked": _object(
        {"revoked_at": {"type": "number"}, "until": {"type": "number"}},
        {"user": _TEXT, "token_id": _TEXT},
    ),
}
