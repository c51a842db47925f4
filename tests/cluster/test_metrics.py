# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What real processes tell Prometheus, and that rules and dashboards ask for nothing else."""

from __future__ import annotations

import json
import os
import re
import time
import typing as t
from pathlib import Path
from urllib.request import urlopen

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.tests.cluster.conftest import ROOT, Cluster

ROLE = ROOT / "roles" / "dask_monitoring"
NAME = re.compile(r"\w+(?=\{)")
"""A metric in an expression: all of them are asked for with labels."""
BY_PROMETHEUS = {"up", "ALERTS"}


def metrics(cluster: Cluster, kind: str) -> dict[str, float]:
    """The samples of the first process of a kind, and every metric that it knows, with no value where it has none."""
    endpoint = next(each for each in cluster_endpoints({"here": cluster.plan}) if each["kind"] == kind)
    with urlopen("http://{0}/metrics".format(endpoint["http"]), timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    known = {line.split()[2]: float("nan") for line in lines if line.startswith("# TYPE")}
    samples = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    return {**known, **samples}


def dashboard_expressions(path: Path) -> t.Iterator[str]:
    for panel in json.loads(path.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def test_schedulers_and_workers_tell_when_their_certificate_expires(cluster: Cluster) -> None:
    for kind in ("scheduler", "worker"):
        found = metrics(cluster, kind)
        days = {
            what: (found['flotilla_certificate_expiry_timestamp_seconds{certificate="' + what + '"}'] - time.time())
            / 86400
            for what in ("host", "authority")
        }
        assert days == {"host": pytest.approx(365, abs=1), "authority": pytest.approx(3650, abs=1)}


def test_workers_tell_their_limits(cluster: Cluster) -> None:
    found = metrics(cluster, "worker")
    process = next(process for process in cluster.plan["processes"] if process["kind"] == "worker")
    assert found["flotilla_worker_memory_limit_bytes"] == process["memory_limit"]
    disk = os.statvfs(process["local_directory"])
    assert found["flotilla_spill_size_bytes"] == disk.f_blocks * disk.f_frsize
    assert 0 < found["flotilla_spill_free_bytes"] <= found["flotilla_spill_size_bytes"]
    assert not [
        name for name in metrics(cluster, "scheduler") if name.startswith(("flotilla_spill", "flotilla_worker"))
    ]


def test_rules_and_dashboards_ask_only_for_metrics_that_there_are(cluster: Cluster) -> None:
    there = {name for kind in ("scheduler", "worker") for name in metrics(cluster, kind)} | BY_PROMETHEUS
    asked = set(NAME.findall((ROLE / "templates" / "rules.yml.j2").read_text()))
    assert len(asked) > 10
    boards = sorted((ROLE / "files" / "dashboards").glob("*.json"))
    for board in boards:
        of_board = {name for expression in dashboard_expressions(board) for name in NAME.findall(expression)}
        assert len(of_board) > 10, board.name
        asked |= of_board
    assert asked - there == set()


def test_dashboards_are_for_any_prometheus_and_any_cluster() -> None:
    for board in (ROLE / "files" / "dashboards").glob("*.json"):
        content = json.loads(board.read_text())
        assert [each["name"] for each in content["templating"]["list"]][:2] == ["datasource", "cluster"]
        numbers = [panel["id"] for panel in content["panels"]]
        assert len(set(numbers)) == len(numbers)
        for panel in content["panels"]:
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
            if panel["type"] != "row":
                assert panel["datasource"]["uid"] == "${datasource}"
                assert all('cluster="$cluster"' in target["expr"] for target in panel["targets"]), panel["title"]
