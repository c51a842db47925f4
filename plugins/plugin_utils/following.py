# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Follows what a module has started (private to this collection)."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

Outcome = t.Dict[str, t.Any]


def follow(
    action: ActionBase,
    options: Outcome,
    task_vars: Outcome | None,
    is_running: t.Callable[[Outcome], bool],
    show: t.Callable[[Outcome, str], None],
) -> Outcome:
    """Executes the task's module, and again for as long as what it started runs; each execution waits a short time.

    :param show: Tells of an outcome, on a host, before the module is asked again.
    :returns: The last outcome, with what the first one changed.
    """
    outcome: Outcome = action._execute_module(module_args=options, task_vars=task_vars)
    first: Outcome = {"changed": outcome.get("changed", False)}
    if outcome.get("diff") is not None:
        first["diff"] = outcome["diff"]
    while not outcome.get("failed") and is_running(outcome):
        show(outcome, (task_vars or {}).get("inventory_hostname", ""))
        # Not again with rerun: that would run anew what ended meanwhile.
        outcome = action._execute_module(module_args={**options, "rerun": False}, task_vars=task_vars)
    return {**outcome, **first}
