# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings are checked once: by the first plays of a playbook, or by a role that is used alone, first of all."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PHASES = {"install", "configure", "service"}
CHECKED_BY_PREFLIGHT = ("firewall", "front_door", "roll_out", "site")
ROLES = sorted(path.parent for path in ROOT.glob("roles/*/tasks/validate.yml") if (path.parent / "main.yml").exists())


def all_of(tasks: list[dict[str, t.Any]]) -> t.Iterator[dict[str, t.Any]]:
    for task in tasks:
        yield task
        yield from all_of(task.get("block", []))


def roles_of(tasks: list[dict[str, t.Any]]) -> t.Iterator[tuple[str, str, dict[str, t.Any]]]:
    """The roles that tasks have, with the phase of each."""
    for task in all_of(tasks):
        role = task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role")
        if role:
            for phase in task.get("loop", [role["tasks_from"]]):
                yield role["name"].removeprefix("flotilla.dask."), phase, task


def specifications(role: str) -> dict[str, t.Any]:
    text = (ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text()
    return t.cast("dict[str, t.Any]", yaml.safe_load(text)["argument_specs"])


@pytest.mark.parametrize("playbook", CHECKED_BY_PREFLIGHT)
def test_plays_that_follow_the_check_check_nothing_again(playbook: str) -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / f"{playbook}.yml").read_text())
    assert not any(play.get("roles") for play in plays)
    found = [each for play in plays for each in roles_of(play.get("tasks", []))]
    assert found
    for role, phase, task in found:
        if phase == "validate":  # where the playbook is run alone
            assert task["when"] == "dask_common_plan is not defined"
            continue
        assert phase in PHASES
        assert phase not in specifications(role)


def test_what_left_a_host_is_stopped_once_the_workers_run_that_take_its_data() -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / "roll_out.yml").read_text())
    order = [
        (role, play["hosts"]) for play in plays for role, phase, _task in roles_of(play["tasks"]) if phase == "service"
    ]
    stops = order.index(("dask_common", "dask_scheduler:dask_workers"))
    assert order.index(("dask_scheduler", "dask_scheduler")) < order.index(("dask_worker", "dask_workers")) < stops


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.parent.name)
def test_a_role_that_is_used_alone_checks_first(role: Path) -> None:
    first = yaml.safe_load((role / "main.yml").read_text())[0]
    assert first["ansible.builtin.import_tasks"] == "validate.yml"
    assert "when" not in first


def test_what_is_not_in_the_plan_is_checked_with_it() -> None:
    planned = set(
        yaml.safe_load((ROOT / "roles" / "dask_common" / "vars" / "main.yml").read_text())["_dask_common_settings"]
    )
    planned.add("dask_environment_plugins")  # of which the plan takes the sources
    for role in (path.parent.name for path in ROLES):
        known = specifications(role)
        if not set(known["main"].get("options", {})) <= planned:
            assert known["validate"]["options"] == known["main"]["options"]
