"""The defaults are those of the manual, and the manual knows every key."""

import re
from pathlib import Path

import pytest
import yaml

from kalam_notify.config import (
    PLACEHOLDER_SECRET,
    Config,
    load_config,
    reload_differences,
    warnings,
)
from kalam_notify.config.decode import key_paths

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def _leaves(node: object, path: str = "") -> set[str]:
    if not isinstance(node, dict) or not node:
        return {path}
    return set().union(
        *(_leaves(value, f"{path}.{key}".lstrip(".")) for key, value in node.items())
    )


def test_no_source_at_all_gives_the_defaults() -> None:
    config = load_config()
    assert config == Config()
    assert config.server.listen == "127.0.0.1:2900"
    assert config.websocket.max_message_bytes == 1048576
    assert config.websocket.slow_reader_timeout == 120.0
    assert config.auth.jwt.algorithms == ("HS256",)
    assert config.log.retention.max_age == 86400.0
    assert config.limits.max_body_bytes == 8 * 1024 * 1024
    assert not config.metrics.open


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "server:\nauth:\n"])
def test_an_empty_file_gives_the_defaults(load, text) -> None:
    assert load(text) == Config()


def test_the_example_file_documents_every_key() -> None:
    documented = _leaves(yaml.safe_load(EXAMPLE.read_text()))
    assert documented == set(key_paths(Config))


def test_the_example_file_shows_the_defaults_but_for_what_it_marks_as_example() -> None:
    config = load_config(EXAMPLE)
    differences = reload_differences(Config(), config)
    assert differences.applied + differences.needs_restart == ["auth.jwt.secret"]
    marked = [line for line in EXAMPLE.read_text().splitlines() if "# (example)" in line]
    assert [line.split(":")[0].strip() for line in marked] == ["secret"]
    assert config.auth.jwt.secret == PLACEHOLDER_SECRET


def test_every_key_of_the_example_file_has_a_comment_above_its_group() -> None:
    lines = EXAMPLE.read_text().splitlines()
    commented = False
    for line in lines:
        if not line.strip():
            commented = False
        elif line.strip().startswith("#"):
            commented = True
        elif re.match(r"  \w+: \S", line) and "max_subscriptions_per_connection" not in line:
            assert commented, line


def test_the_example_files_commented_examples_are_valid(tmp_path) -> None:
    text = EXAMPLE.read_text()
    for block in re.findall(r"(?:^ *#:.*\n)+(?= *\w+: )", text, re.MULTILINE):
        default = text[text.index(block) + len(block) :].split("\n", 1)[0] + "\n"
        live = re.sub(r"^( *)#: ?", r"\1", block, flags=re.MULTILINE)
        if default.split(":")[0] == live.split(":")[0]:
            text = text.replace(block + default, live)
    # Files and a key set that the test has no use for.
    text = re.sub(r"^ *(public_key|jwks_url|credentials): .*\n", "", text, flags=re.MULTILINE)
    file = tmp_path / "live.yaml"
    file.write_text(text)
    config = load_config(file)
    assert [key.name for key in config.auth.api_keys] == ["feeder"]
    assert config.server.trusted_proxies == ("10.0.0.0/8", "127.0.0.1")
    assert config.log.url == "nats://a:4222,b:4222,c:4222/KALAM"
    orders = config.tables.declared["app.orders"]
    assert orders.primary_key == ("id",)
    assert orders.policy == "tenant = CLAIM('tenant')"
    assert orders.max_age == 3600.0
    assert config.tables.declared["app.messages"].kind == "user"


def test_the_example_file_says_which_keys_wait_for_a_restart() -> None:
    from kalam_notify.config.reload import is_reloadable

    marked, waiting = set(), False
    section: list[str] = []
    for line in EXAMPLE.read_text().splitlines():
        if line.strip().startswith("#"):
            waiting = waiting or ("[restart]" in line and line.startswith(" "))
            continue
        match = re.match(r"( *)(\w+):(.*)", line)
        if match:
            section = [*section[: len(match[1]) // 2], match[2]]
            if (waiting and len(section) > 1) or "[restart]" in match[3]:
                marked.add(".".join(section))
        waiting = False
    restart = {path for path in key_paths(Config) if not is_reloadable(path)}
    assert {path for path in restart if not path.startswith("server.tls.")} == marked - {
        "server.tls"
    }
    assert "server.tls" in marked


def test_the_example_file_warns_of_its_placeholder_secret() -> None:
    assert [line for line in warnings(load_config(EXAMPLE)) if "placeholder" in line]
