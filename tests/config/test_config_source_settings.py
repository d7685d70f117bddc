"""The `sources` section: what it takes, what it refuses, and what stays hidden."""

import pytest
from msgspec.structs import replace

from kalam_notify.config import Config, Override, dev_config, load_config
from kalam_notify.config.reload import reload_differences, reloaded
from kalam_notify.config.source_settings import SourceSettings, chooses
from kalam_notify.errors import ConfigurationFault

URL = "postgresql://kalam:geheim%21@db:5432/shop"


def test_a_source_has_defaults_for_all_but_its_url(load) -> None:
    config = load(f"sources: {{shop: {{postgres: '{URL}'}}}}")
    shop = config.sources["shop"]
    assert (shop.tables, shop.access, shop.publication, shop.slot) == (
        ("public.*",),
        "private",
        None,
        None,
    )
    assert shop.max_slot_bytes == 10 * 2**30
    assert shop.password == "geheim!"
    assert "geheim" not in repr(config)


def test_a_source_may_come_from_the_environment_and_from_a_flag() -> None:
    environ = {"KALAM_NOTIFY_SOURCES__SHOP__POSTGRES": URL}
    config = load_config(None, environ, [Override("--source", "sources.main.postgres", URL)])
    assert sorted(config.sources) == ["main", "shop"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sources: {shop: {}}", "sources.shop.postgres"),
        ("sources: {shop: {postgres: 'mysql://db/x'}}", "sources.shop.postgres"),
        ("sources: {shop: {postgres: 'postgresql://db:port/x'}}", "sources.shop.postgres"),
        ("sources: {Shop-1: {postgres: 'postgresql://db/x'}}", "sources.Shop-1"),
        (
            "sources: {shop: {postgres: 'postgresql://db/x', tables: [orders]}}",
            "sources.shop.tables",
        ),
        ("sources: {shop: {postgres: 'postgresql://db/x', tables: []}}", "sources.shop.tables"),
        ("sources: {shop: {postgres: 'postgresql://db/x', slot: 'A-b'}}", "sources.shop.slot"),
        ("sources: {shop: {postgres: 'postgresql://db/x', acces: public}}", "sources.shop.acces"),
        ("sources: 7", "sources"),
    ],
)
def test_a_bad_source_is_told_by_its_key(load, text: str, key: str) -> None:
    with pytest.raises(ConfigurationFault) as caught:
        load(text)
    assert key in [fault.key for fault in caught.value.faults]


def test_a_bad_url_is_not_shown_for_it_may_hold_a_password(load) -> None:
    with pytest.raises(ConfigurationFault) as caught:
        load("sources: {shop: {postgres: 'mysql://a:geheim@db/x'}}")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("patterns", "schema", "table", "chosen"),
    [
        (["public.*"], "public", "orders", True),
        (["public.*"], "public", "User", True),
        (["public.*"], "audit", "orders", False),
        (["*.*", "!audit.*"], "audit", "orders", False),
        (["public.order_*"], "public", "order_items", True),
        (["public.orders"], "public", "orders2", False),
        (["Public.Orders"], "public", "orders", True),
        (['public."User"'], "public", "User", True),
        (['public."User"'], "public", "user", False),
        (['"a ""b"."c*"'], 'a "b', "c*", True),
        (['"a ""b"."c*"'], 'a "b', "cd", False),
    ],
)
def test_patterns_choose_tables(patterns: list[str], schema: str, table: str, chosen: bool) -> None:
    assert chooses(patterns, schema, table) is chosen


POSTGRES = "sources: {shop: {postgres: 'postgresql://db/x'}}\n"


def test_a_sources_table_may_have_indexes_without_naming_its_key(load) -> None:
    declared = "tables: {declared: {public.t: {type: shared, indexes: [a]}}}\n"
    assert load(POSTGRES + declared).tables.declared["public.t"].indexes == (("a",),)
    with pytest.raises(ConfigurationFault, match="nothing to index"):
        load(declared)


def test_a_sources_table_is_no_users_table(load) -> None:
    with pytest.raises(ConfigurationFault, match="have no user"):
        load(POSTGRES + "tables: {declared: {public.t: {type: user, primary_key: id}}}")
    assert load(POSTGRES + "tables: {declared: {app.t: {type: user, primary_key: id}}}")


def test_two_sources_do_not_share_a_slot(load) -> None:
    one = "a: {postgres: 'postgresql://a/x'}"
    other = "b: {postgres: 'postgresql://b/x', slot: kalam_a}"
    with pytest.raises(ConfigurationFault, match="give each its own"):
        load(f"sources: {{{one}, {other}}}")


def test_dev_opens_the_tables_of_sources() -> None:
    config = Config(sources={"main": SourceSettings(URL)})
    kept, gone = dev_config(config), dev_config(config, keeps_nothing=True)
    assert kept.sources["main"] == SourceSettings(URL, access="public")
    assert gone.sources["main"] == SourceSettings(URL, access="public", is_temporary=True)


def test_sources_wait_for_a_restart() -> None:
    before = Config(sources={"main": SourceSettings(URL)})
    after = replace(before, sources={})
    assert reload_differences(before, after).needs_restart == ["sources"]
    assert reloaded(before, after).sources == before.sources
