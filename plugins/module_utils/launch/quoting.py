# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Words of a command line and values of variables, quoted for the files of each launcher.

Pure functions. Values have no control characters: the settings refuse them. Private to this collection.
"""

from __future__ import annotations

import re
import shlex

_BARE = re.compile(r"[A-Za-z0-9_./:=,@+-]+")


def systemd_word(word: str) -> str:
    """Returns one word of ``ExecStart=``: no specifier and no variable in it is expanded (systemd.service(5))."""
    return word if _BARE.fullmatch(word) else systemd_value(word).replace("$", "$$")


def systemd_value(value: str) -> str:
    """Returns one value for ``Environment=`` and its like, where only specifiers are expanded (systemd.exec(5))."""
    return '"{0}"'.format(value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%"))


def shell_word(word: str) -> str:
    """Returns one word for a POSIX shell, in which nothing is expanded."""
    return word if _BARE.fullmatch(word) else '"{0}"'.format(re.sub(r'([\\"$`])', r"\\\1", word))


def supervisor_word(word: str) -> str:
    """Returns one word of a program's ``command=``.

    supervisor expands ``%(name)s``, takes ``;`` and ``#`` behind a space for a comment, also between quotes, and then
    splits as a shell does.
    """
    quoted = shlex.quote(word).replace("%", "%%")
    for mark in ";#(":
        quoted = quoted.replace(mark, "'\"" + mark + "\"'")
    return quoted
