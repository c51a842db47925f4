# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection's own exceptions (private to this collection).

Each carries a message for the person who has to act on it; modules and filters catch ``DaskError`` once and
show the message without a traceback.
"""

from __future__ import annotations

import typing as t


class DaskError(Exception):
    """Something went wrong that the user can mend; the message says what, where and how."""


class SettingsError(DaskError):
    """One or more settings were refused. The message lists every one of them."""

    def __init__(self, problems: t.Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("Refused, nothing was changed:\n" + "\n".join("- " + problem for problem in problems))
