"""Whatever stands at whatever key, the answer is a configuration or a list of faults."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kalam_notify.config import Config, load_config
from kalam_notify.config.decode import key_paths
from kalam_notify.errors import ConfigurationFault

ODD = [None, True, -1, 0, 10**17, 1.5, float("nan"), "", "x", "\x7f", "a,b", "[", "1s"]
ODD += [[], [None], [[]], [{}], ["x", 5], {}, {"x": 1}, {"x": {"y": []}}, b"\x00", {1: 2}]
ODD += ["10" * 40, "[::1", "http://[", "https://a:b", "\ud7ff", "é" * 300, [{"name": {}}]]


def write(file: Path, path: str, value: object) -> None:
    for key in reversed(path.split(".")):
        value = {key: value}
    file.write_text(yaml.safe_dump(value), encoding="utf-8")


@pytest.mark.parametrize("path", [*key_paths(Config), "server", "auth.jwt", "tables.declared.a.b"])
def test_odd_values_at_every_key(tmp_path, path) -> None:
    file = tmp_path / "odd.yaml"
    for value in ODD:
        write(file, path, value)
        with contextlib.suppress(ConfigurationFault):
            assert isinstance(load_config(file), Config)


@pytest.mark.parametrize("path", key_paths(Config))
def test_odd_text_in_every_variable(path) -> None:
    variable = "KALAM_NOTIFY_" + path.upper().replace(".", "__")
    for value in ODD:
        with contextlib.suppress(ConfigurationFault):
            assert isinstance(load_config(None, {variable: str(value)}), Config)


DECLARATION = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["shared", "user", "x"]),
        "access": st.sampled_from(["public", "private", 5]),
        "primary_key": st.sampled_from(["id", ["id"], ["id", "id"], [], None, {}, "_x", [5]]),
        "columns": st.sampled_from([None, {}, {"id": "Int"}, {"id": None}, ["id"], {"a": {}}]),
        "policy": st.sampled_from([None, "id = 1", "id =", "b = 2", "", 5]),
        "retention": st.sampled_from([None, {}, {"max_age": "1h"}, {"max_age": 0}, 5]),
    },
)


@given(st.dictionaries(st.sampled_from(["a.b", "A.b", "c.d", "e", "_.x"]), DECLARATION))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_odd_declarations_of_tables(tmp_path, declared) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(yaml.safe_dump({"tables": {"declared": declared}}))
    told: list[str] = []
    try:
        tables = load_config(file).tables.declared
    except ConfigurationFault as refusal:
        told, tables = [str(fault) for fault in refusal.faults], {}
    assert all(line.isprintable() for line in told)
    assert told or {name.lower() for name in declared} == set(tables)
    assert all(table.is_shared or table.policy is None for table in tables.values())


@pytest.mark.parametrize(
    "text",
    ["a: &a {b: *a}", "tables: &t {declared: {x: [1, *t]}}", "a: &a [[*a]]", "a: &a {<<p: *a, wo}"],
)
def test_a_value_that_contains_itself_is_a_fault(tmp_path, text) -> None:
    file = tmp_path / "circle.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationFault, match="contains itself"):
        load_config(file)


def test_an_alias_beside_its_anchor_is_none(tmp_path) -> None:
    file = tmp_path / "alias.yaml"
    table = "{type: shared, retention: *once}"
    file.write_text(f"""
auth: {{anonymous: true}}
log: {{retention: &once {{max_age: 1h}}}}
tables: {{declared: {{a.b: {table}, a.c: {table}}}}}
""")
    assert len(load_config(file).tables.declared) == 2
