"""What the verbs make of their arguments."""

from pathlib import Path

import pytest

from kalam_notify import cli
from kalam_notify.cli import build_parser
from kalam_notify.cli.serve import _development_directory, overrides_of
from kalam_notify.config import Config, Override
from kalam_notify.errors import AuthenticationFailed, ConfigurationFault, Fault


def test_tail_takes_its_flags_in_any_order(monkeypatch) -> None:
    monkeypatch.delenv("KALAM_NOTIFY_TOKEN", raising=False)
    args = build_parser().parse_args(
        ["tail", "--last", "5", "SELECT * FROM a.b", "--from", "7", "--snapshot", "--json"]
    )
    assert (args.sql, args.from_seq, args.last) == ("SELECT * FROM a.b", 7, 5)
    assert (args.snapshot, args.json) == (True, True)
    assert (args.url, args.token) == ("http://127.0.0.1:2900", None)


def test_tail_is_live_only_without_a_flag() -> None:
    args = build_parser().parse_args(["tail", "SELECT * FROM a.b"])
    assert (args.from_seq, args.last, args.snapshot, args.json) == (None, None, False, False)


def test_the_token_falls_back_to_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("KALAM_NOTIFY_TOKEN", "from-environment")
    assert build_parser().parse_args(["publish"]).token == "from-environment"
    assert build_parser().parse_args(["publish", "--token", "given"]).token == "given"


@pytest.mark.parametrize(("args", "file"), [([], "-"), (["-"], "-"), (["x.json"], "x.json")])
def test_publish_reads_stdin_unless_a_file_is_named(args, file) -> None:
    assert build_parser().parse_args(["publish", *args]).file == file


def test_serve_flags_become_overrides_of_their_keys() -> None:
    args = build_parser().parse_args(["serve", "--listen", "[::1]:0", "--workers", "auto"])
    assert overrides_of(args) == [
        Override("--listen", "server.listen", "[::1]:0"),
        Override("--workers", "server.workers", "auto"),
    ]


def test_the_temporary_directory_of_dev_goes_and_a_given_one_stays(tmp_path) -> None:
    with _development_directory(Config(), is_given=False) as data_dir:
        (data_dir / "kalam.db").touch()
    assert not data_dir.exists()
    with _development_directory(Config(), is_given=True) as data_dir:
        assert data_dir == Path("kalam-data")


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (
            ConfigurationFault([Fault("f", "a", "1", "x"), Fault("f", "b", "2", "y")]),
            2,
            "f: a: 1: x\nf: b: 2: y\n",
        ),
        (AuthenticationFailed("no"), 1, "no\n"),
        (ConnectionRefusedError(111, "Connection refused"), 1, "kalam-notify: [Errno 111] "),
        (KeyboardInterrupt(), 1, ""),
    ],
)
def test_expected_faults_end_in_an_exit_code_and_lines(
    monkeypatch, capsys, raised, code, told
) -> None:
    def fail(args: object) -> int:
        raise raised

    monkeypatch.setattr(cli.check_config, "run", fail)
    assert cli.main(["check-config", "x"]) == code
    assert capsys.readouterr().err.startswith(told)
