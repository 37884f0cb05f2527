"""Completion in shells, by what the script for each of them answers."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from shiftsearch.__main__ import main

COMMANDS = {"align", "denoise", "flow", "compare", "batch", "demo", "doctor", "warm", "completion"}
ASKED = [
    ("", COMMANDS),
    ("de", {"denoise", "demo"}),
    ("denoise --qual", {"--quality"}),
    ("denoise --quality ", {"preview", "fast", "high"}),
    ("align --flow d", {"dis"}),
    ("compare --js", {"--json"}),
    ("align --js", set()),
    ("completion z", {"zsh"}),
    ("denoise --no", {"--no-clobber"}),
]


def script(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(("typed", "expected"), ASKED)
def test_bash_and_zsh_complete_what_the_parser_knows(capsys, shell, typed, expected):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    words = ["shiftsearch", *typed.split(" ")]
    quoted = " ".join(f"'{word}'" for word in words)
    if shell == "zsh":
        ask = f"autoload -Uz compinit && compinit -u\n{script(shell, capsys)}\n"
    else:
        ask = script(shell, capsys) + "\ncomplete -p shiftsearch >&2\n"
    ask += f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _shiftsearch; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    if shell == "zsh":
        ask = ask.replace("COMP_WORDS=", "setopt KSH_ARRAYS; COMP_WORDS=")
    done = subprocess.run([shell, "-c", ask], capture_output=True, text=True, check=True)
    assert {word for word in done.stdout.split("\n") if word} == expected, done.stderr
    assert shell == "zsh" or "-F _shiftsearch shiftsearch" in done.stderr


def test_fish_has_each_command_and_option(capsys):
    found = script("fish", capsys)
    for command in COMMANDS:
        assert f"-f -a {command} -d '" in found
    assert (
        "complete -c shiftsearch -n '__fish_seen_subcommand_from denoise' -l quality -x -a 'preview fast high'" in found
    )
    assert "from compare' -l json -d 'print JSON, with the values of each frame'" in found
    if shutil.which("fish") is not None:
        subprocess.run(["fish", "--no-execute"], input=found, text=True, check=True)


def test_another_shell_is_not_known(capsys):
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
