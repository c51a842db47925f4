# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which workers are meant, and what is said of those that cannot be had."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError, SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils._workers import check, expected, select, statuses

PROMISED = [
    {"name": "{0}-{1}-0".format(host, group), "host": host, "group": group, "dashboard": 9200}
    for host in ("alpha", "beta")
    for group in ("cpu", "gpu")
]
FOUND = [{"name": "alpha-cpu-0", "status": "running"}, {"name": "guest", "status": "paused"}]


def chosen(**selectors: t.Any) -> list[str]:
    return select(PROMISED, FOUND, **{"names": [], "hosts": [], "groups": [], **selectors})


def test_a_worker_is_meant_that_any_selector_names() -> None:
    assert chosen(names=["guest"]) == ["guest"]
    assert chosen(hosts=["beta"]) == ["beta-cpu-0", "beta-gpu-0"]
    assert chosen(groups=["gpu"]) == ["alpha-gpu-0", "beta-gpu-0"]
    assert chosen(names=["alpha-cpu-0"], hosts=["beta"], groups=["cpu"]) == ["alpha-cpu-0", "beta-cpu-0", "beta-gpu-0"]


def test_every_unknown_selector_is_refused_with_what_there_is() -> None:
    with pytest.raises(SettingsError) as caught:
        chosen(names=["beta", "guest"], hosts=["gamma"], groups=["cpu", "fpga"])
    assert caught.value.problems == [
        "names: 'beta' is refused. Allowed: alpha-cpu-0, alpha-gpu-0, beta-cpu-0, beta-gpu-0, guest.",
        "hosts: 'gamma' is refused. Allowed: alpha, beta.",
        "groups: 'fpga' is refused. Allowed: cpu, gpu.",
    ]


def test_only_what_is_connected_can_be_retired_or_restarted_and_what_is_not_is_closed() -> None:
    before = statuses(["alpha-cpu-0", "beta-cpu-0"], FOUND)
    assert before == {"alpha-cpu-0": "running", "beta-cpu-0": "absent"}
    assert expected("closed", before) == {"alpha-cpu-0": "absent", "beta-cpu-0": "absent"}
    for state in ("retired", "restarted"):
        with pytest.raises(DaskError, match="cannot be {0}: beta-cpu-0".format(state)):
            expected(state, before)


def test_a_retired_worker_is_as_expected_and_a_restarted_one_never() -> None:
    retired = {"alpha-cpu-0": "closing_gracefully"}
    assert expected("retired", retired) == retired
    assert expected("restarted", retired) != retired


def test_a_worker_that_the_scheduler_did_not_answer_for_was_not_freed() -> None:
    freed = {"name": "alpha-cpu-0", "reason": ""}
    check("retired", {"tcp://1": "alpha-cpu-0"}, {"tcp://1": freed})
    with pytest.raises(DaskError, match="beta-cpu-0: it went away"):
        check("retired", {"tcp://1": "alpha-cpu-0", "tcp://2": "beta-cpu-0"}, {"tcp://1": freed})
