# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to a host's firewall follows from what is there; that it is done is tested on hosts."""

from __future__ import annotations

import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils import _firewall_table
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._firewall_table import (
    Observed,
    dask_firewall,
    diff,
    has_traces,
    plan_absent,
    plan_present,
)

RULES, OTHER_RULES = "table inet dask_main { new }", "table inet dask_main { old }"
UNIT, OTHER_UNIT = "[Service] new", "[Service] old"


def listing(rules: str) -> str:
    """What nft would make of them."""
    return "listed: " + rules


TEXTS = st.sampled_from([None, RULES, OTHER_RULES])
LISTINGS = st.sampled_from([None, listing(RULES), listing(OTHER_RULES), "something else"])
UNITS = st.sampled_from([None, UNIT, OTHER_UNIT])
FLAGS = st.booleans()
STATES = st.builds(Observed, TEXTS, LISTINGS, LISTINGS, UNITS, FLAGS, FLAGS, FLAGS, st.just(True))
SETTLED = Observed(RULES, listing(RULES), listing(RULES), UNIT, enabled=True, active=True, traces=True)


@given(STATES)
@settings(max_examples=500)
def test_only_what_is_in_force_as_it_was_loaded_and_confirmed_is_not_loaded_again(observed: Observed) -> None:
    as_it_should_be = (
        observed.rules == RULES
        and observed.in_force is not None
        and observed.in_force == observed.as_loaded
        and not observed.unconfirmed
    )
    assert plan_present(RULES, UNIT, observed).load == (not as_it_should_be)


@given(STATES)
def test_the_unit_is_mended_exactly_where_it_is_wrong(observed: Observed) -> None:
    right = (observed.unit, observed.enabled, observed.active, observed.read) == (UNIT, True, True, True)
    assert bool(plan_present(RULES, UNIT, observed).unit) == (not right)


def test_what_is_settled_needs_nothing() -> None:
    assert not plan_present(RULES, UNIT, SETTLED)
    assert not plan_absent(Observed())
    assert plan_absent(Observed(traces=True))


@pytest.mark.parametrize(
    "change",
    [{"in_force": None}, {"in_force": "something else"}, {"unconfirmed": True}, {"as_loaded": None}],
    ids=str,
)
def test_rules_that_somebody_removed_or_changed_or_nobody_confirmed_are_loaded_again(change: t.Any) -> None:
    steps = plan_present(RULES, UNIT, replace(SETTLED, **change))
    assert steps.load
    assert not steps.unit


def test_the_diff_starts_from_what_is_in_force() -> None:
    def before(observed: Observed) -> list[str]:
        steps = plan_present(RULES, UNIT, observed)
        return [each["before"] for each in diff(steps, observed, "dask_main", RULES, UNIT)]

    assert before(Observed()) == ["", ""]
    assert before(SETTLED) == []
    assert before(replace(SETTLED, rules=OTHER_RULES)) == [OTHER_RULES]
    assert before(replace(SETTLED, in_force=None)) == [""]
    assert before(replace(SETTLED, in_force="something else")) == ["something else"]
    assert before(replace(SETTLED, active=False, enabled=False)) == ["# not enabled\n# not started\n" + UNIT]
    removed = diff(plan_absent(SETTLED), SETTLED, "dask_main", "", "")
    assert [(each["before"], each["after"]) for each in removed] == [(RULES, ""), (UNIT, "")]


def test_a_host_without_systemd_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_firewall_table, "BOOTED_BY_SYSTEMD", str(tmp_path / "systemd"))
    options = {"cluster": "of_no_host", "rules": RULES, "unit": UNIT, "confirm_seconds": 60, "state": "present"}
    with pytest.raises(DaskError, match="without systemd as process 1"):
        dask_firewall(options, check_mode=True)
    assert not has_traces("of_no_host")
    assert dask_firewall({**options, "state": "absent"}, check_mode=False)["changed"] is False
