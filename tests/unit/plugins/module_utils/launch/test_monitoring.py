# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prometheus is told of every process of the plans, and watches as the options say, or they are refused."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.plugins.module_utils.launch.monitoring import monitoring_plan, scrape_targets
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.tests.unit import samples

ROLE = Path(__file__).parents[5] / "roles" / "dask_monitoring"
SCRAPE_STALE = 300
"""Seconds after which Prometheus takes a series for ended."""


def endpoints(groups: dict[str, list[dict[str, t.Any]]]) -> list[dict[str, t.Any]]:
    """Those of hosts that run these groups, the first one the scheduler too."""
    plans = {}
    for number, (name, value) in enumerate(groups.items()):
        host = samples.host(name=name, address="10.0.0.{0}".format(number + 1))
        plans[name] = launch_plan(
            samples.settings(dask_host=host, dask_worker_groups=value, dask_runs_scheduler=number == 0)
        )
    return cluster_endpoints(plans)


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=2), min_size=1, max_size=4))
def test_every_process_is_one_target_with_an_instance_of_its_own(numbers: list[list[int]]) -> None:
    groups = {
        "node{0}".format(host): [
            samples.group(
                name="g{0}".format(index),
                processes=processes,
                memory="4 GiB",
                ports={"worker": 9000 + 100 * index, "nanny": 9300 + 100 * index, "dashboard": 9600 + 100 * index},
            )
            for index, processes in enumerate(of_host)
        ]
        for host, of_host in enumerate(numbers)
    }
    found = endpoints(groups)
    text = scrape_targets(found, "main")
    targets = json.loads(text)
    assert [target["targets"] for target in targets] == [[each["http"]] for each in found]
    assert len(text.splitlines()) == len(targets) + 2
    labels = [target["labels"] for target in targets]
    assert len({each["instance"] for each in labels}) == len(labels)
    assert {each["worker"] for each in labels if each["kind"] == "worker"} == {
        worker["name"] for worker in promised_workers(groups)
    }
    for each in labels:
        assert each["job"] == "dask"
        assert all(isinstance(value, str) and value for value in each.values())


def defaults(**changes: t.Any) -> dict[str, t.Any]:
    values = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    return {**values, **{"dask_monitoring_" + name: value for name, value in changes.items()}}


def test_the_defaults_make_sense() -> None:
    plan = monitoring_plan(defaults())
    assert plan["install"]
    assert (plan["soon_seconds"], plan["window_seconds"], plan["history_seconds"]) == (60, 150, 600)


@given(st.integers(1, 86400), st.integers(1, 120))
def test_what_looks_back_has_samples_to_look_at(lasting: int, scrape: int) -> None:
    plan = monitoring_plan(defaults(for_seconds=lasting, scrape_seconds=scrape))
    assert plan["soon_seconds"] <= lasting
    for span in (plan["window_seconds"], plan["history_seconds"]):
        assert span >= 4 * scrape
    assert plan["history_seconds"] >= 2 * lasting
    assert plan["scrape_timeout"] <= scrape < SCRAPE_STALE


def test_options_that_came_as_text_are_taken() -> None:
    texts = {"for_seconds": "60", "memory_share": "0.5", "scrape_seconds": "5", "stall_seconds": "2.5"}
    plan = monitoring_plan(defaults(**texts))
    assert (plan["for_seconds"], plan["memory_share"], plan["scrape_seconds"]) == (60, 0.5, 5)


REFUSED: dict[str, tuple[dict[str, t.Any], str]] = {
    "no port": ({"listen": "127.0.0.1"}, "dask_monitoring_listen: '127.0.0.1' is refused"),
    "port too high": ({"listen": "127.0.0.1:90900"}, "127.0.0.1:9090"),
    "address of Alertmanager as URL": ({"alertmanagers": ["a:1", "http://a:1"]}, "dask_monitoring_alertmanagers[1]"),
    "Alertmanagers as text": ({"alertmanagers": "a:1"}, "a list"),
    "unknown way": ({"prometheus": "docker"}, "one of install, existing"),
    "too rarely": ({"scrape_seconds": 600}, "from 1 to 120"),
    "at once": ({"for_seconds": 0}, "dask_monitoring_for_seconds: 0 is refused"),
    "percent": ({"memory_share": 80}, "above 0 and below 1"),
    "no number": ({"spill_free_share": "little"}, "dask_monitoring_spill_free_share: 'little' is refused"),
    "a switch": ({"stall_seconds": True}, "dask_monitoring_stall_seconds: True is refused"),
    "certificates that nobody renews by then": ({"certificate_days": 30}, "from 1 to 29"),
    "label that cannot be one": ({"alert_labels": {"on-call": "a"}}, "'on-call' is refused"),
    "label of ours": ({"alert_labels": {"severity": "a"}}, "'severity' is refused"),
    "label without text": ({"alert_labels": {"team": ["a"]}}, "dask_monitoring_alert_labels.team"),
    "relative directory": ({"rules_directory": "rules"}, "dask_monitoring_rules_directory: 'rules' is refused"),
    "no directory": ({"targets_directory": ""}, "dask_monitoring_targets_directory: '' is refused"),
    "service with options": ({"service": "a; b"}, "dask_monitoring_service: 'a; b' is refused"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_what_prometheus_would_not_take_is_refused_in_words(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        monitoring_plan(defaults(**changes))
    assert words in str(caught.value)


def test_a_port_of_the_cluster_is_refused_for_a_prometheus_that_is_installed() -> None:
    taken = {"dask_ports": [9089, 9090]}
    with pytest.raises(SettingsError, match="a port that the cluster's own processes on this host don't use"):
        monitoring_plan({**defaults(), **taken})
    assert monitoring_plan({**defaults(prometheus="existing"), **taken})
