"""The command completion: a script for a shell that completes our commands and options, written from the parser itself."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

_BASH = """\
_shiftsearch() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} found=
    case "${{COMP_WORDS[1]}}:$previous" in
{values}
    esac
    if [[ -z $found && $current == -* ]]; then
        case "${{COMP_WORDS[1]}}" in
{options}
        esac
    elif [[ $COMP_CWORD == 1 ]]; then
        found="{commands}"
    fi
    COMPREPLY=($(compgen -W "$found" -- "$current"))
}}
complete -o default -F _shiftsearch shiftsearch
"""


class _Option(NamedTuple):
    command: str
    names: list[str]
    choices: list[str]
    takes: bool  # whether a value follows
    help: str


def add_completion(commands: Any) -> None:
    """Add the command to argparse's `commands`, of which it completes all."""
    text = "print a script that completes commands and options in a shell"
    examples = (
        'eval "$(shiftsearch completion bash)"    # in ~/.bashrc',
        'eval "$(shiftsearch completion zsh)"     # in ~/.zshrc, after compinit',
        "shiftsearch completion fish > ~/.config/fish/completions/shiftsearch.fish",
    )
    parser = commands.add_parser(
        "completion",
        help=text,
        description="Print a script for a shell. It completes our commands and options there.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  " + "\n  ".join(examples),
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="your shell")
    parser.set_defaults(run=partial(_completion, commands))


def _completion(commands: Any, args: Namespace) -> int:
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](commands), end="")
    return 0


def _options(commands: Any) -> Iterator[_Option]:
    for command, parser in commands.choices.items():
        for action in parser._actions:
            choices = [str(choice) for choice in action.choices or ()]
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            yield _Option(command, list(action.option_strings), choices, action.nargs != 0, text)


def _bash(commands: Any) -> str:
    found = list(_options(commands))
    values = [
        f"        {'|'.join(f'{each.command}:{name}' for name in each.names or [each.command])}) "
        f'found="{" ".join(each.choices)}" ;;'
        for each in found
        if each.choices
    ]
    options = [
        f'            {command}) found="{" ".join(name for each in found if each.command == command for name in each.names)}" ;;'
        for command in commands.choices
    ]
    return _BASH.format(values="\n".join(values), options="\n".join(options), commands=" ".join(commands.choices))


def _zsh(commands: Any) -> str:
    """Return the script for bash, which zsh runs as it is."""
    return "autoload -Uz bashcompinit && bashcompinit\n" + _bash(commands)


def _fish(commands: Any) -> str:
    lines = ["complete -c shiftsearch -n __fish_use_subcommand -f"]
    for action in commands._choices_actions:
        lines.append(f"complete -c shiftsearch -n __fish_use_subcommand -f -a {action.dest} -d {_quoted(action.help)}")
    for each in _options(commands):
        line = f"complete -c shiftsearch -n '__fish_seen_subcommand_from {each.command}'"
        names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in each.names]
        choices = (
            [f"-x -a {_quoted(' '.join(each.choices))}"] if each.choices else ["-r"] if each.takes and names else []
        )
        if names or each.choices:
            lines.append(" ".join([line, *names, *choices, "-d", _quoted(each.help)]))
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
