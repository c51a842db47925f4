# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How what a module is told stays between the controller and the module (private to this collection)."""

from __future__ import annotations

import typing as t


def send_through_pipe(connection: t.Any) -> None:
    """Has a connection send a module and its arguments through a pipe, where it can, and not as a file."""
    if connection.has_pipelining:
        connection.set_option("pipelining", True)


def unlogged(task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
    """Returns the variables of a task with which its module writes none of its options to the host's log.

    Others than the task's user read that log. Results are as they are else: ``no_log`` on an option would remove its
    value from all of them.
    """
    return {**(task_vars or {}), "ansible_no_target_syslog": True}
