# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of every scenario: check mode on untouched hosts says what the first run does, and the second does nothing."""

from __future__ import annotations

from testbed import Deployment

# How an image gets from host to host, and nothing stays on the way: to check mode that is one task, "Bring the image".
TRAVELLING = tuple(
    f"flotilla.dask.dask_image : {words}"
    for words in ("Bring", "Fetch the file", "Load the image", "Make room", "Remove", "Write the image")
)


def lasting(changed: dict[str, list[str]]) -> dict[str, list[str]]:
    """What was changed, apart from how an image travels."""
    return {task: hosts for task, hosts in changed.items() if not task.startswith(TRAVELLING)}


def test_check_mode_changes_nothing_and_predicts_exactly_what_the_first_run_changes(first_runs: Deployment) -> None:
    assert first_runs.predicted.ok, first_runs.predicted.problems
    assert first_runs.made_in_check_mode == []
    assert lasting(first_runs.predicted.changed) == lasting(first_runs.applied.changed)
    assert {"dask_certificates", "dask_common", "dask_environment"} <= first_runs.applied.roles


def test_the_second_run_changes_nothing(first_runs: Deployment) -> None:
    assert (first_runs.again.ok, first_runs.again.changed) == (True, {}), first_runs.again.problems
