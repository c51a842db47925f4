# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every alert fires for its reason and no other, and clears: promtool replays what Prometheus would have seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import pytest
import yaml
from testbed import Ansible, Hosts
from testinfra.host import Host

from ansible_collections.flotilla.dask.plugins.module_utils.launch.monitoring import monitoring_plan

ROLE = Path(__file__).parents[3] / "roles" / "dask_monitoring"
RULES = "/tmp/rules.yml"
GIB = 2**30
DAY = 86400

INTERVAL = 15  # seconds between two samples
BEGIN, END, ALL = 60, 140, 220  # the samples in which something is wrong, and how many there are
BEFORE, LATE, AFTER = "14m", "34m", "54m"

Value = Union[float, None]
Values = Callable[[int], Value]  # of a sample's number; None is a sample that is missing


def always(value: Value) -> Values:
    return lambda _number: value


@dataclass(frozen=True)
class Process:
    """The series of one process that is well, by what is in braces beside its labels."""

    labels: dict[str, str]
    series: dict[str, Values]


def scheduler() -> Process:
    labels = {"instance": "alpha-scheduler", "kind": "scheduler", "host": "alpha"}
    series = {
        "up": always(1),
        'dask_scheduler_workers{state="idle"}': always(3),
        'dask_scheduler_workers{state="retiring"}': always(0),
        "dask_scheduler_clients": always(0),
        "dask_scheduler_tick_duration_maximum_seconds": always(0.02),
        "process_resident_memory_bytes": always(1 * GIB),
        "process_start_time_seconds": always(1000),
        'flotilla_certificate_expiry_timestamp_seconds{certificate="host"}': always(100 * DAY),
        'flotilla_certificate_expiry_timestamp_seconds{certificate="authority"}': always(1000 * DAY),
    }
    return Process(labels, series)


def worker(number: int) -> Process:
    name = f"beta-cpu-{number}"
    labels = {"instance": name, "worker": name, "group": "cpu", "kind": "worker", "host": "beta"}
    series = {
        "up": always(1),
        "dask_worker_threads": always(1),
        'dask_worker_memory_bytes{type="managed"}': always(1 * GIB),
        'dask_worker_memory_bytes{type="unmanaged"}': always(1 * GIB),
        'dask_worker_memory_bytes{type="spilled"}': always(90 * GIB),
        "dask_worker_tick_duration_maximum_seconds": always(0.02),
        "flotilla_worker_memory_limit_bytes": always(4 * GIB),
        "flotilla_spill_size_bytes": always(100 * GIB),
        "flotilla_spill_free_bytes": always(50 * GIB),
        "process_start_time_seconds": always(1000),
        'flotilla_certificate_expiry_timestamp_seconds{certificate="host"}': always(100 * DAY),
        'flotilla_certificate_expiry_timestamp_seconds{certificate="authority"}': always(1000 * DAY),
    }
    return Process(labels, series)


@dataclass(frozen=True)
class Case:
    """What is wrong between two moments, and which alerts fire then, late enough.

    Changes are by the process (`scheduler`, `worker`: one of three, `workers`: all), then by the series; `*`: all but
    whether it answers.
    """

    fires: set[str]
    changes: dict[str, dict[str, Values]] = field(default_factory=dict)

    def processes(self) -> Iterator[Process]:
        well = {"scheduler": scheduler(), "worker": worker(0), "second": worker(1), "third": worker(2)}
        for name, process in well.items():
            changes = dict(self.changes.get("workers", {}) if name != "scheduler" else {}) | self.changes.get(name, {})
            rest = changes.pop("*", None)
            if rest:
                changes = {**dict.fromkeys(process.series, rest), "up": process.series["up"], **changes}
            yield Process(process.labels, {**process.series, **_for_a_while(changes, process.series)})


def _for_a_while(changes: dict[str, Values], well: dict[str, Values]) -> dict[str, Values]:
    """The changed series, which before and after are as those of a process that is well; a new one has its own time."""

    def either(name: str, changed: Values) -> Values:
        return lambda number: changed(number) if BEGIN <= number < END else well[name](number)

    return {name: either(name, values) if name in well else values for name, values in changes.items()}


def erred(number: int) -> Value:
    """A counter that begins with the first error."""
    return None if number < END - 20 else 2


def erred_again(number: int) -> Value:
    return 5 if number < END - 20 else 6


NOTHING = always(None)
MISSING = {"up": always(0), "*": NOTHING}
UNSEEN = {"up": NOTHING, "*": NOTHING}
ERRED = 'dask_scheduler_prefix_state_totals_total{task_prefix_name="load",state="erred"}'
CASES = {
    "nothing": Case(set()),
    "scheduler down": Case({"DaskSchedulerDown"}, {"scheduler": MISSING, "workers": MISSING}),
    "nobody looks": Case(
        {"DaskSchedulerDown"}, {"scheduler": {"up": NOTHING, "*": NOTHING}, "workers": {"up": NOTHING}}
    ),
    "a worker killed": Case(
        {"DaskWorkersMissing"}, {"worker": MISSING, "scheduler": {'dask_scheduler_workers{state="idle"}': always(2)}}
    ),
    "a worker retired": Case(
        {"DaskWorkersMissing"},
        {
            "scheduler": {
                'dask_scheduler_workers{state="idle"}': always(2),
                'dask_scheduler_workers{state="retiring"}': always(1),
            }
        },
    ),
    "a worker restarted": Case(
        set(),
        {
            "worker": {
                "up": lambda number: 0 if number < BEGIN + 8 else 1,
                "process_start_time_seconds": lambda number: 1000 if number < BEGIN + 8 else 2000,
            },
            "scheduler": {'dask_scheduler_workers{state="idle"}': lambda number: 2 if number < BEGIN + 8 else 3},
        },
    ),
    "all workers killed": Case(
        {"DaskNoWorkers"}, {"workers": MISSING, "scheduler": {'dask_scheduler_workers{state="idle"}': always(0)}}
    ),
    "a worker behind a firewall": Case({"DaskWorkersUnreachable"}, {"worker": MISSING}),
    "a worker without metrics": Case({"DaskMetricsMissing"}, {"worker": {"*": NOTHING}}),
    "a scheduler without metrics": Case({"DaskMetricsMissing"}, {"scheduler": {"*": NOTHING}}),
    "a full worker": Case(
        {"DaskWorkerMemoryHigh"}, {"worker": {'dask_worker_memory_bytes{type="managed"}': always(2.3 * GIB)}}
    ),
    "a full worker for a moment": Case(
        set(),
        {"worker": {'dask_worker_memory_bytes{type="managed"}': lambda number: (1 + 2 * (number % 8 == 0)) * GIB}},
    ),
    "a full scheduler": Case(
        {"DaskSchedulerMemoryHigh"}, {"scheduler": {"process_resident_memory_bytes": always(7 * GIB)}}
    ),
    "a scheduler that stalls now and then": Case(
        {"DaskSchedulerStalled"},
        {"scheduler": {"dask_scheduler_tick_duration_maximum_seconds": lambda number: 6 if number % 6 == 0 else 0.02}},
    ),
    "a worker that stalls": Case(
        {"DaskWorkerStalled"}, {"worker": {"dask_worker_tick_duration_maximum_seconds": always(4)}}
    ),
    "a worker that stalled once": Case(
        set(),
        {"worker": {"dask_worker_tick_duration_maximum_seconds": lambda number: 9 if number == BEGIN else 0.02}},
    ),
    "a worker that dies again and again": Case(
        {"DaskProcessesRestart"}, {"worker": {"process_start_time_seconds": lambda number: 1000 + number // 8}}
    ),
    "the first error": Case({"DaskTasksErred"}, {"scheduler": {ERRED: erred}}),
    "another error": Case({"DaskTasksErred"}, {"scheduler": {ERRED: erred_again}}),
    "a certificate that has to be renewed": Case(
        {"DaskCertificateExpires"},
        {"worker": {'flotilla_certificate_expiry_timestamp_seconds{certificate="host"}': always(13 * DAY)}},
    ),
    "an authority that has expired": Case(
        {"DaskCertificateExpires", "DaskCertificateExpiresNow"},
        {"workers": {'flotilla_certificate_expiry_timestamp_seconds{certificate="authority"}': always(60)}},
    ),
    "a full disk": Case({"DaskSpillDiskFull"}, {"worker": {"flotilla_spill_free_bytes": always(9 * GIB)}}),
}


@pytest.fixture(scope="module")
def gateway(hosts: Hosts, ansible: Ansible) -> Host:
    """The host that has promtool, with the rules that an inventory which says nothing gives."""
    ((name, host),) = hosts.group("dask_monitoring").items()
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    variables = {
        "dask_monitoring_plan": monitoring_plan(defaults),
        "dask_monitoring_scheduler_host": "alpha",
        "_dask_monitoring_cluster": "main",
        "_dask_monitoring_planned": 3,
        "_dask_monitoring_scheduler_endpoint": {"http": "10.0.0.1:8787"},
        "_dask_monitoring_scheduler_limit": 8 * GIB,
        "_dask_monitoring_scheduler_plan": {"description": {"logs": "journalctl -u 'dask-main-*'"}},
    }
    template = {"src": str(ROLE / "templates" / "rules.yml.j2"), "dest": RULES, "mode": "0644"}
    template.update(variable_start_string="[[", variable_end_string="]]")
    words = ("--extra-vars", json.dumps(variables))
    (result,) = ansible.module(name, "ansible.builtin.template", *words, **template).values()
    assert not result.get("failed"), result
    return host


def replay(case: Case) -> dict[str, Any]:
    """What promtool replays, and which alerts have to fire when."""
    series = []
    for process in case.processes():
        for name, values in process.series.items():
            metric, _brace, own = name.partition("{")
            labels = {"job": "dask", "cluster": "main", **process.labels}
            words = [f'{key}="{value}"' for key, value in labels.items()] + ([own.rstrip("}")] if own else [])
            samples = " ".join("_" if value is None else f"{value:g}" for value in map(values, range(ALL)))
            series.append({"series": f"{metric}{{{','.join(words)}}}", "values": samples})
    moments = {BEFORE: set(), LATE: case.fires, AFTER: set()}
    tests = [
        {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": moment,
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)],
        }
        for moment, firing in moments.items()
    ]
    return {
        "rule_files": [RULES],
        "evaluation_interval": f"{INTERVAL}s",
        "tests": [{"interval": f"{INTERVAL}s", "input_series": series, "promql_expr_test": tests}],
    }


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_for_its_reason_and_no_other_and_clears(gateway: Host, name: str) -> None:
    gateway.check_output("printf %%s %s >/tmp/replay.json", json.dumps(replay(CASES[name])))
    outcome = gateway.run("promtool test rules /tmp/replay.json")
    assert outcome.succeeded, outcome.stdout + outcome.stderr


def test_every_alert_has_its_case(gateway: Host) -> None:
    rules = yaml.safe_load(gateway.file(RULES).content_string)["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == set().union(*(case.fires for case in CASES.values()))
