"""The verbs that need no server, through the real console script."""

from pathlib import Path

import jwt
import pytest

from kalam_notify.auth import TokenVerifier
from kalam_notify.config import PLACEHOLDER_SECRET, JwtSettings, load_config
from kalam_notify.model import Role
from kalam_notify.version import __version__

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
SECRET = "a secret of more than thirty-two bytes"
WITH_SECRET = {"KALAM_NOTIFY_AUTH__JWT__SECRET": SECRET}


def test_the_version_is_told(run) -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"kalam-notify {__version__}\n")


@pytest.mark.parametrize("module", [False, True])
def test_help_names_every_verb(run, module) -> None:
    done = run("--help", module=module)
    assert done.returncode == 0
    for verb in ("serve", "check-config", "token", "publish", "tail", "explain", "top"):
        assert f"\n    {verb}" in done.stdout


@pytest.mark.parametrize("verb", ["serve", "check-config", "token", "publish", "tail", "explain"])
def test_every_verb_has_help_with_examples(run, verb) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0
    assert f"examples:\n  {''}" in done.stdout
    assert f"kalam-notify {verb}" in done.stdout.split("examples:")[1]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fly"],
        ["check-config"],
        ["token"],
        ["tail"],
        ["serve", "--port", "1"],
        ["token", "--user", "a\nb"],
        ["token", "--user", "a", "--role", "anonymous"],
        ["token", "--user", "a", "--ttl", "0"],
        ["token", "--user", "a", "--ttl", "soon"],
        ["token", "--user", "a", "--claim", "tenant"],
        ["token", "--user", "a", "--claim", "role=dba"],
        ["tail", "SELECT 1", "--from", "-1"],
        ["tail", "SELECT 1", "--last", "9007199254740992"],
    ],
)
def test_wrong_usage_exits_2(run, args) -> None:
    done = run(*args, environ=WITH_SECRET)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: kalam-notify" in done.stderr


def test_the_example_file_passes_with_a_warning_of_its_secret(run) -> None:
    done = run("check-config", str(EXAMPLE))
    assert done.returncode == 0
    assert f"{EXAMPLE}: warning: auth.jwt.secret: is the placeholder" in done.stderr


def test_faults_are_one_line_each_on_stderr_and_exit_2(run, tmp_path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("server: {listne: x, workers: 0}\nauth: {jwt: {secret: {a: hunter2}}}\n")
    done = run("check-config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{file}: server.listne: unknown key: did you mean server.listen?",
        f"{file}: server.workers: 0: give a whole number from 1 to 1024, or auto for one per core",
        f"{file}: auth.jwt.secret: (hidden): "
        "give text, in quotes where YAML would read something else",
    ]


def test_an_absent_file_exits_2_without_a_traceback(run) -> None:
    done = run("check-config", "absent.yaml")
    assert done.returncode == 2
    assert done.stderr == "absent.yaml: (file): No such file or directory: check the path\n"


def test_check_config_looks_at_the_file_alone(run, tmp_path) -> None:
    (tmp_path / "good.yaml").write_text("auth: {anonymous: true}\n")
    done = run("check-config", "good.yaml", environ={"KALAM_NOTIFY_SERVER__WORKERS": "none"})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_token_is_printed_that_the_server_takes(run) -> None:
    done = run(
        *("token", "--user", "Zoë", "--role", "service", "--ttl", "5m"),
        *("--claim", "tenant=acme", "--claim", "level=5", "--claim", 'tags=["a"]'),
        *("--claim", "equation=a=b", "--claim", "nan=NaN", "--claim", "empty="),
        environ=WITH_SECRET,
    )
    assert (done.returncode, done.stderr) == (0, "")
    token = done.stdout.removesuffix("\n")
    identity = TokenVerifier(JwtSettings(secret=SECRET)).verify(token)
    assert (identity.user_id, identity.role) == ("Zoë", Role.SERVICE)
    claims = identity.claims
    assert (claims["tenant"], claims["level"], claims["tags"]) == ("acme", 5, ["a"])
    assert (claims["equation"], claims["nan"], claims["empty"]) == ("a=b", "NaN", "")
    assert 299 <= claims["exp"] - claims["iat"] <= 301


def test_a_token_is_signed_with_the_secret_of_the_file(run, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"auth: {{jwt: {{secret: {SECRET}xyz0123456789, algorithms: [HS384], issuer: me}}}}"
    )
    done = run("token", "--user", "bob", "--config", "c.yaml")
    settings = JwtSettings(secret=f"{SECRET}xyz0123456789", algorithms=("HS384",), issuer="me")
    assert TokenVerifier(settings).verify(done.stdout.strip()).role is Role.USER


def test_a_token_with_the_placeholder_secret_comes_with_a_warning(run) -> None:
    done = run("token", "--user", "bob", "--config", str(EXAMPLE))
    assert done.returncode == 0
    assert "placeholder" in done.stderr
    assert jwt.decode(done.stdout.strip(), PLACEHOLDER_SECRET, ["HS256"])["sub"] == "bob"


def test_without_a_secret_there_is_no_token(run) -> None:
    done = run("token", "--user", "bob")
    assert (done.returncode, done.stdout) == (2, "")
    assert "auth.jwt.secret" in done.stderr


def test_tokens_of_another_issuer_cannot_be_signed_here(run, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text(
        "auth: {jwt: {jwks_url: 'https://issuer.example.com/keys', algorithms: [RS256]}}"
    )
    done = run("token", "--user", "bob", "--config", "c.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "only HS256, HS384 and HS512 tokens can be signed here" in done.stderr


def test_serve_refuses_to_start_without_a_way_to_authenticate(run) -> None:
    done = run("serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no way to authenticate" in done.stderr


def test_serve_refuses_the_placeholder_secret(run) -> None:
    done = run("serve", "--config", str(EXAMPLE))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{EXAMPLE}: auth.jwt.secret: the placeholder" in done.stderr


def test_serve_names_the_flag_that_is_wrong(run) -> None:
    done = run("serve", "--dev", "--listen", "2900", "--workers", "few")
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["--listen", "--workers"]


def test_a_token_names_its_role_where_the_configuration_looks_for_it(run, tmp_path) -> None:
    file = tmp_path / "config.yaml"
    jwt = f"{{secret: [{SECRET}], role_claim: app_role, roles: {{boss: dba, dba: user}}}}"
    file.write_text(f"auth: {{jwt: {jwt}}}\n")
    done = run("token", "--config", str(file), "--user", "a", "--role", "dba")
    settings = load_config(file).auth.jwt
    assert TokenVerifier(settings).verify(done.stdout.strip()).role is Role.DBA
    refused = run("token", "--config", str(file), "--user", "a", "--claim", "app_role=boss")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "app_role" in refused.stderr
    assert "Traceback" not in refused.stderr
