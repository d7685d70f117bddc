"""`kalam-notify completion SHELL`: a script with which a shell completes verbs, options and files.

The scripts are made of the parsers themselves, so they know what the parsers know.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from kalam_notify.cli.verbs import add_verb

if TYPE_CHECKING:
    from kalam_notify.cli.verbs import Verbs

PROGRAM = "kalam-notify"

_EXAMPLES = """\
  source <(kalam-notify completion bash)                         in ~/.bashrc
  kalam-notify completion zsh > "${fpath[1]}/_kalam-notify"
  kalam-notify completion fish > ~/.config/fish/completions/kalam-notify.fish
"""


class Option(NamedTuple):
    """An option with its names; `choices` are the values it takes, where they are known."""

    names: list[str]
    help: str
    takes_value: bool
    choices: list[str]
    takes_file: bool


class Verb(NamedTuple):
    """A verb; `words` are what may stand behind it, such as the verbs of its own."""

    name: str
    help: str
    options: list[Option]
    words: list[str]
    takes_file: bool


def add_parser(verbs: "Verbs", root: argparse.ArgumentParser) -> None:
    """`root` is the parser with all verbs, which are looked at when a script is asked for."""
    summary = "print a script that completes in a shell"
    parser = add_verb(verbs, "completion", summary, _EXAMPLES)
    parser.add_argument("shell", metavar="SHELL", choices=sorted(_SCRIPTS), help="bash, fish, zsh")
    parser.set_defaults(run=lambda args: _print(args.shell, root))


def script(shell: str, root: argparse.ArgumentParser) -> str:
    """The script for `shell`, one of bash, fish and zsh."""
    return _SCRIPTS[shell](list(verbs_of(root)), list(_options(root)))


def _print(shell: str, root: argparse.ArgumentParser) -> int:
    print(script(shell, root), end="")
    return 0


def verbs_of(root: argparse.ArgumentParser) -> Iterator[Verb]:
    """The verbs of a parser, as its help lists them."""
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, parser in action.choices.items():
                yield _verb(name, helps.get(name, ""), parser)


def _verb(name: str, summary: str, parser: argparse.ArgumentParser) -> Verb:
    own = list(verbs_of(parser))
    words = [verb.name for verb in own]
    positional = [action for action in parser._actions if not action.option_strings]
    for action in positional:
        if action.choices and not own:
            words += [str(choice) for choice in action.choices]
    options = [*_options(parser), *(option for verb in own for option in verb.options[1:])]
    files = any(map(_is_file, positional)) or any(verb.takes_file for verb in own)
    return Verb(name, summary, options, words, files)


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            yield Option(
                list(action.option_strings),
                (action.help or "").replace("%(default)s", str(action.default)),
                action.nargs != 0,
                [str(choice) for choice in action.choices or ()],
                _is_file(action),
            )


def _is_file(action: argparse.Action) -> bool:
    return str(action.metavar or "").rpartition("_")[2] in ("FILE", "DIR")


# bash


def _bash(verbs: list[Verb], common: list[Option]) -> str:
    names = " ".join(verb.name for verb in verbs)
    values = "".join(_bash_values(verb) for verb in verbs)
    words = "".join(
        f'        {verb.name}) words="{_bash_words(verb)}" files={int(verb.takes_file)} ;;\n'
        for verb in verbs
    )
    common_names = " ".join(name for option in common for name in option.names)
    return f"""\
# bash completion for {PROGRAM}
_kalam_notify() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    local verb="" words="" files=0 place
    for ((place = 1; place < COMP_CWORD; place++)); do
        [[ "${{COMP_WORDS[place]}}" == -* ]] || {{ verb="${{COMP_WORDS[place]}}"; break; }}
    done
    COMPREPLY=()
    case "$verb:$before" in
{values}    esac
    case "$verb" in
        "") words="{names} {common_names}" ;;
{words}    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ $files == 1 && "$word" != -* ]] && COMPREPLY+=($(compgen -f -- "$word"))
    return 0
}}
complete -o filenames -F _kalam_notify {PROGRAM}
"""


def _bash_words(verb: Verb) -> str:
    return " ".join([*verb.words, *(name for option in verb.options for name in option.names)])


def _bash_values(verb: Verb) -> str:
    lines = []
    for option in verb.options:
        if option.takes_value:
            made = f'-W "{" ".join(option.choices)}"' if option.choices else "-f"
            is_known = option.choices or option.takes_file
            reply = f'COMPREPLY=($(compgen {made} -- "$word")); ' if is_known else ""
            places = "|".join(f"{verb.name}:{name}" for name in option.names)
            lines.append(f"        {places}) {reply}return ;;\n")
    return "".join(lines)


# zsh


def _zsh(verbs: list[Verb], common: list[Option]) -> str:
    listed = "\n".join(f"    {_quoted(f'{it.name}:{it.help}')}" for it in verbs)
    cases = "".join(f"    {verb.name}) _arguments -s {_zsh_specs(verb)} ;;\n" for verb in verbs)
    specs = " ".join(spec for option in common for spec in _zsh_option(option))
    return f"""\
#compdef {PROGRAM}
# zsh completion for {PROGRAM}
_kalam_notify() {{
  local -a verbs
  verbs=(
{listed}
  )
  if (( CURRENT == 2 )); then
    [[ $words[2] == -* ]] && _arguments {specs} || _describe verb verbs
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
{cases}  esac
}}
if [[ $funcstack[1] == _kalam_notify || $funcstack[1] == _{PROGRAM} ]]; then
  _kalam_notify "$@"
else
  compdef _kalam_notify {PROGRAM}
fi
"""


def _zsh_specs(verb: Verb) -> str:
    specs = [spec for option in verb.options for spec in _zsh_option(option)]
    if verb.words:
        specs.append(_quoted(f"1:word:({' '.join(verb.words)})"))
    if verb.takes_file:
        specs.append(_quoted("*:file:_files"))
    return " ".join(specs)


def _zsh_option(option: Option) -> Iterator[str]:
    text = option.help
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    value = ""
    if option.takes_value:
        files = "_files" if option.takes_file else " "
        value = f":value:({' '.join(option.choices)})" if option.choices else f":value:{files}"
    for name in option.names:
        yield _quoted(f"{name}[{text}]{value}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# fish


def _fish(verbs: list[Verb], common: list[Option]) -> str:
    lines = [f"# fish completion for {PROGRAM}", f"complete -c {PROGRAM} -f"]
    start = "-n __fish_use_subcommand"
    lines += [
        f"complete -c {PROGRAM} {start} -a {verb.name} -d {_fish_quoted(verb.help)}"
        for verb in verbs
    ]
    lines += [f"complete -c {PROGRAM} {start} {_fish_option(option)}" for option in common]
    for verb in verbs:
        here = f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {verb.name}'"
        lines += [f"{here} {_fish_option(option)}" for option in verb.options]
        if verb.words:
            lines.append(f"{here} -a {_fish_quoted(' '.join(verb.words))}")
        if verb.takes_file:
            lines.append(f"{here} -F")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    names = " ".join(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
    )
    value = ""
    if option.takes_value:
        value = " -r -F" if option.takes_file else " -x"
        value += f" -a {_fish_quoted(' '.join(option.choices))}" if option.choices else ""
    return f"{names}{value} -d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS: dict[str, Callable[[list[Verb], list[Option]], str]] = {
    "bash": _bash,
    "fish": _fish,
    "zsh": _zsh,
}
