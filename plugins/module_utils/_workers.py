# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which workers are meant, and what has to become of them. Pure (private to this collection)."""

from __future__ import annotations

import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError, SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils._in_process import describe_outcome

ABSENT = "absent"
RETIRED = "closing_gracefully"
"""Dask's status of a worker that gets no work any more."""

THEN = {"retired": "stay", "restarted": "restart", "closed": "close"}
"""State of the module to what the scheduler does once the workers are free; see ``_in_process.SchedulerSide.drain``."""

Worker = t.Mapping[str, t.Any]


def select(
    promised: t.Sequence[Worker],
    found: t.Sequence[Worker],
    names: t.Sequence[str],
    hosts: t.Sequence[str],
    groups: t.Sequence[str],
) -> list[str]:
    """Returns the names of all workers that are named, or on a named host, or in a named group; sorted.

    :param promised: What ``launch.promised_workers`` returns.
    :param found: What ``_health.workers`` returns.
    :raises SettingsError: a name, host or group isn't the cluster's.
    """
    known = {str(worker["name"]) for worker in (*promised, *found)}
    problems = []
    selected = set(names)
    for option, wanted, allowed in (
        ("names", names, known),
        ("hosts", hosts, {str(worker["host"]) for worker in promised}),
        ("groups", groups, {str(worker["group"]) for worker in promised}),
    ):
        problems += [
            "{0}: {1!r} is refused. Allowed: {2}.".format(option, each, ", ".join(sorted(allowed)))
            for each in wanted
            if each not in allowed
        ]
    if problems:
        raise SettingsError(problems)
    selected |= {str(worker["name"]) for worker in promised if worker["host"] in hosts or worker["group"] in groups}
    return sorted(selected)


def statuses(selected: t.Sequence[str], found: t.Sequence[Worker]) -> dict[str, str]:
    """Returns every selected worker's status, which is ``absent`` for one that isn't connected."""
    known = {str(worker["name"]): str(worker["status"]) for worker in found}
    return {name: known.get(name, ABSENT) for name in selected}


def expected(state: str, before: t.Mapping[str, str]) -> dict[str, str]:
    """Returns every selected worker's status as it will be.

    :raises DaskError: a worker isn't connected, and only one that is can get there.
    """
    missing = [name for name, status in before.items() if status == ABSENT]
    if missing and state != "closed":
        raise DaskError(
            "Not connected to the scheduler, so that it cannot be {0}: {1}. See dask_cluster_info, or run "
            "flotilla.dask.site to start what is planned.".format(state, ", ".join(missing))
        )
    after = {"retired": RETIRED, "restarted": "running, as a new process", "closed": ABSENT}[state]
    return dict.fromkeys(before, after)


def check(state: str, asked: t.Mapping[str, str], outcomes: t.Mapping[str, Worker]) -> None:
    """Compares what became of workers with what was asked for.

    :param state: As the module's option.
    :param asked: Address to name.
    :param outcomes: What ``SchedulerSide.drain`` returned.
    :raises DaskError: one of them isn't free; says which keys would be lost.
    """
    problems = ["{0}: it went away before it was asked".format(asked[each]) for each in asked if each not in outcomes]
    problems += [
        "{0}: {1}".format(outcome["name"], describe_outcome(dict(outcome)))
        for outcome in outcomes.values()
        if outcome["reason"]
    ]
    if problems:
        raise DaskError("Not all of these workers could be {0}:\n{1}".format(state, "\n".join(problems)))
