# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a word or a value holds, it arrives as it is: judged by supervisor, a shell, and systemd's rules."""

from __future__ import annotations

import re
import subprocess
import tempfile
import typing as t
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from supervisor.options import ServerOptions
from supervisor.process import Subprocess

from ansible_collections.flotilla.dask.plugins.module_utils.launch.quoting import (
    shell_word,
    supervisor_word,
    systemd_value,
    systemd_word,
)

# What settings let through: no control characters.
WORDS = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=20)
TRICKY = st.text("\"'\\%$;#(){}s =,-~*[]\u0085\u2028é🐍", max_size=12)


def argv_from_supervisor(words: t.Sequence[str]) -> list[str]:
    """Has supervisor read a program that is written, and included, as the collection's templates do it."""
    program = ["[program:scheduler]", "command=/usr/bin/env", *("  " + supervisor_word(word) for word in words), ""]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "supervisord.conf")
        path.write_text("[supervisord]\n[include]\nfiles={0}/scheduler.conf\n".format(directory))
        Path(directory, "scheduler.conf").write_text("\n".join(program), encoding="utf-8")
        options = ServerOptions()
        options.realize(["-c", str(path)])
        (group,) = options.process_group_configs
        (scheduler,) = group.process_configs
        _command, argv = Subprocess(scheduler).get_execv_args()
    return list(argv)


@given(st.lists(WORDS | TRICKY, max_size=6))
@example(["a ; b", "#", "50%", "%(here)s", "it's", "", "\\"])
@settings(max_examples=600)
def test_words_come_back_from_supervisor_as_they_were(words: list[str]) -> None:
    assert argv_from_supervisor(words) == ["/usr/bin/env", *words]


def read_as_systemd(text: str, in_command: bool) -> list[str]:
    """Splits, unquotes and expands a line as systemd.syntax(7), systemd.unit(5) and systemd.service(5) say."""
    words = []
    for quoted, bare in re.findall(r'"((?:[^"\\]|\\.)*)"(?=\s|$)|([^\s"\'\\]+)(?=\s|$)', text):
        word = re.sub(r"\\(.)", lambda escape: {"\\": "\\", '"': '"'}[escape[1]], quoted or bare)
        word = re.sub("%(.)?", lambda specifier: {"%": "%"}[specifier[1]], word)
        if in_command:
            word = re.sub(r"\$(.)?", lambda variable: {"$": "$"}[variable[1]], word)
        words.append(word)
    return words


@given(st.lists(WORDS | TRICKY, max_size=6))
@example(["$HOME", "${HOME}", "%h", 'a "b"', "\\x41", ""])
@settings(max_examples=600)
def test_words_of_a_command_come_back_from_systemd_as_they_were(words: list[str]) -> None:
    assert read_as_systemd(" ".join(map(systemd_word, words)), in_command=True) == words


@given(WORDS | TRICKY)
@example("A=$HOME %h \\x41")
@settings(max_examples=600)
def test_values_come_back_from_systemd_as_they_were(value: str) -> None:
    assert read_as_systemd(systemd_value(value), in_command=False) == [value]


@given(WORDS | TRICKY)
@settings(max_examples=300)
def test_nothing_quoted_spans_lines_or_is_taken_for_the_end_of_one(word: str) -> None:
    quoted = [systemd_word(word), systemd_value(word), supervisor_word(word)]
    assert not any("\n" in text or text.endswith("\\") for text in quoted)


@given(st.lists(WORDS | TRICKY, max_size=6))
@settings(max_examples=50)
def test_words_come_back_from_a_shell_as_they_were(words: list[str]) -> None:
    command = " ".join(["printf '%s\\0'", *map(shell_word, words)])
    said = subprocess.run(["bash", "-c", command], check=True, capture_output=True).stdout.decode()
    assert said.split("\0")[:-1] == (words or [""])
