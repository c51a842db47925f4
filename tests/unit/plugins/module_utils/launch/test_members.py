# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that had the cluster stays known until it is removed, whatever the inventory says."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.members import (
    cluster_members,
    parse_members,
    undeclared,
)

RECORDED = {
    "alpha": {"address": "10.0.0.1", "declared": True},
    "beta": {"address": "10.0.0.2", "declared": True},
}


def members(declared: list[str], **changes: t.Any) -> dict[str, t.Any]:
    return cluster_members({"declared": declared, "recorded": RECORDED, **changes})


def test_a_first_run_has_the_declared_hosts_at_the_addresses_that_they_say_or_were_found_at() -> None:
    found = {"alpha": "10.0.0.1", "beta": "10.0.0.2"}
    known = cluster_members(
        {"declared": ["beta", "alpha", "gamma"], "dask_host_address": {"beta": "b.lab"}, "found": found}
    )
    assert {name: each["address"] for name, each in known.items()} == {
        "alpha": "10.0.0.1",
        "beta": "b.lab",
        "gamma": "",
    }
    assert undeclared(known) == {}


def test_a_host_that_left_stays_with_its_address_until_it_is_removed() -> None:
    left = members(["alpha"])
    assert undeclared(left) == {"beta": "10.0.0.2"}
    assert undeclared(members(["alpha"], recorded=left)) == {"beta": "10.0.0.2"}
    assert members(["alpha"], removed="beta") == {"alpha": RECORDED["alpha"]}


def test_a_host_that_came_back_is_declared_again() -> None:
    assert undeclared(members(["alpha", "beta"], recorded=members(["alpha"]))) == {}


def test_a_host_that_a_run_leaves_out_keeps_the_address_that_it_had() -> None:
    assert members(["alpha", "beta"], found={"alpha": "10.0.0.7"})["beta"]["address"] == "10.0.0.2"


def test_what_was_written_down_is_read_again() -> None:
    assert parse_members(json.dumps(RECORDED), "/etc/dask/main/members.json") == RECORDED
    assert parse_members(None, "/etc/dask/main/members.json") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"alpha": "10.0.0.1"}',
        '{"alpha": {"address": 1, "declared": true}}',
        '{"alpha": {"address": "10.0.0.1"}}',
        '{"alpha\\u001b[2J": {"address": "", "declared": false}}',
    ],
)
def test_what_nobody_of_the_collection_wrote_is_refused_by_its_path(text: str) -> None:
    with pytest.raises(DaskError, match=r"/etc/dask/main/members.json is refused: .* Remove it; flotilla.dask.site"):
        parse_members(text, "/etc/dask/main/members.json")
