# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Prometheus sees every process of the plan, and its alerts fire when they should, and clear."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed import Ansible, Cluster, Hosts, Run, wait_until
from testinfra.host import Host

ROLE = Path(__file__).parents[3] / "roles" / "dask_monitoring"
TARGETS = "/etc/prometheus/dask/targets/dask-main.json"
RULES = "/etc/prometheus/dask/rules/dask-main.yml"
WATCH = """
- ansible.builtin.import_playbook: flotilla.dask.preflight
- name: Watch the cluster
  hosts: dask_monitoring
  gather_facts: false
  vars:
    dask_scheduler_host: "{{ groups['dask_scheduler'] | first }}"
    dask_worker_hosts: "{{ groups['dask_workers'] }}"
    dask_proxy_hosts: "{{ groups['dask_proxy'] | default([]) }}"
    dask_monitoring_hosts: "{{ groups['dask_monitoring'] }}"
  tasks:
    - name: Apply the role, or remove what it made
      ansible.builtin.include_role:
        name: flotilla.dask.dask_monitoring
        tasks_from: "{{ entry | default('main') }}"
"""

# Asks Prometheus, which listens on its own host alone.
QUESTION = """
import json, sys, urllib.parse, urllib.request
path, parameters = json.load(sys.stdin)
url = "http://127.0.0.1:9090/api/v1/" + path + "?" + urllib.parse.urlencode(parameters, doseq=True)
with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
    print(answer.read().decode())
"""


class Prometheus:
    def __init__(self, host: Host) -> None:
        self._host = host

    def ask(self, path: str, **parameters: str) -> Any:
        question = json.dumps([path, parameters])
        answer = self._host.check_output("echo %s | python3 -c %s", question, QUESTION)
        return json.loads(answer)["data"]

    def alerts(self) -> dict[str, str]:
        """The state of each alert that isn't inactive: pending or firing."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self.ask("alerts")["alerts"]}

    def reached(self) -> int:
        """How many processes it could read."""
        return [each["health"] for each in self.ask("targets", state="active")["activeTargets"]].count("up")

    def alert(self, name: str) -> dict[str, Any]:
        (found,) = [alert for alert in self.ask("alerts")["alerts"] if alert["labels"]["alertname"] == name]
        return dict(found)


class Watch:
    """The role alone, on the plan of the whole cluster, without what comes before it in `site`."""

    def __init__(self, ansible: Ansible, directory: Path) -> None:
        self._ansible = ansible
        self._playbook = directory / "watch.yml"
        self._playbook.write_text("---" + WATCH)

    def __call__(self, *options: str, **variables: object) -> Run:
        return self._ansible.playbook(str(self._playbook), *options, extra_vars=variables)


@pytest.fixture(scope="module")
def gateway(hosts: Hosts) -> Host:
    """The host that Prometheus is on."""
    (host,) = hosts.group("dask_monitoring").values()
    return host


@pytest.fixture(scope="module")
def prometheus(gateway: Host) -> Prometheus:
    return Prometheus(gateway)


@pytest.fixture(scope="module")
def watch(ansible: Ansible, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    return Watch(ansible, tmp_path_factory.mktemp("watch"))


@pytest.fixture
def quiet(prometheus: Prometheus, gateway: Host) -> None:
    """Every process is seen, and nothing is wrong, whatever the test before did."""
    wait_until(lambda: prometheus.reached() == len(targets(gateway)), "Prometheus reaches every process")
    wait_until(lambda: prometheus.alerts() == {}, "no alert is left")


def targets(gateway: Host) -> list[dict[str, Any]]:
    return list(json.loads(gateway.file(TARGETS).content_string))


@pytest.mark.usefixtures("quiet")
def test_every_planned_process_is_seen_with_labels_of_its_own(
    prometheus: Prometheus, gateway: Host, cluster: Cluster
) -> None:
    planned = {entry["targets"][0]: entry["labels"] for entry in targets(gateway)}
    seen = prometheus.ask("targets", state="active")["activeTargets"]
    assert {each["discoveredLabels"]["__address__"]: each["labels"] for each in seen} == planned
    workers = {labels["worker"]: labels for labels in planned.values() if labels["kind"] == "worker"}
    assert set(workers) == {worker["name"] for worker in cluster.state()["workers"]}
    assert len({labels["instance"] for labels in planned.values()}) == len(planned)
    samples = prometheus.ask("query", query="flotilla_worker_memory_limit_bytes")["result"]
    assert {sample["metric"]["worker"] for sample in samples} == set(workers)


def test_prometheus_listens_where_it_is_told_to_and_nowhere_else(gateway: Host) -> None:
    assert gateway.socket("tcp://127.0.0.1:9090").is_listening
    assert not gateway.socket("tcp://0.0.0.0:9090").is_listening
    assert gateway.service("prometheus").is_enabled


@pytest.mark.usefixtures("quiet")
def test_prometheus_can_answer_what_rules_and_dashboards_ask(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    assert {rule["health"] for rule in rules} == {"ok"}
    for rule in rules:
        assert {"cluster", "severity"} <= set(rule["labels"])
        assert {"summary", "description"} == set(rule["annotations"])
    stands_for = {"$cluster": "main", "$host": ".*", "$worker": ".*", "$__rate_interval": "1m"}
    for board in (ROLE / "files" / "dashboards").glob("*.json"):
        for panel in json.loads(board.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"]
                for name, value in stands_for.items():
                    expression = expression.replace(name, value)
                assert "result" in prometheus.ask("query", query=expression), panel["title"]


@pytest.mark.usefixtures("quiet")
def test_a_worker_that_is_gone_for_good_is_told_until_it_is_back(
    prometheus: Prometheus, gateway: Host, hosts: Hosts
) -> None:
    labels = next(entry["labels"] for entry in targets(gateway) if entry["labels"]["kind"] == "worker")
    host, unit = hosts[labels["host"]], f"dask-main-{labels['process']}"
    states: list[str] = []

    def fires() -> bool:
        state = prometheus.alerts().get("DaskWorkersMissing")
        states.extend([state] if state and state not in states else [])
        return state == "firing"

    dropin = f"/run/systemd/system/{unit}.service.d"
    host.check_output("mkdir -p %s && printf '[Service]\\nRestart=no\\n' >%s/gone.conf", dropin, dropin)
    host.check_output("systemctl daemon-reload && systemctl kill --signal=KILL %s", unit)
    try:
        wait_until(fires, "the missing worker is told")
        alert = prometheus.alert("DaskWorkersMissing")
    finally:
        host.check_output("rm -r %s && systemctl daemon-reload && systemctl start %s", dropin, unit)
    assert states == ["pending", "firing"]
    assert alert["labels"] == {"alertname": "DaskWorkersMissing", "cluster": "main", "severity": "warning"}
    planned = sum(entry["labels"]["kind"] == "worker" for entry in targets(gateway))
    assert f"{planned - 1} of {planned} planned workers" in alert["annotations"]["summary"]
    assert f"{labels['worker']} on {labels['host']}" in alert["annotations"]["description"]
    wait_until(lambda: prometheus.alerts() == {}, "the alert clears")


@pytest.mark.usefixtures("quiet")
def test_a_scheduler_that_does_not_come_back_is_told(prometheus: Prometheus, hosts: Hosts, watch: Watch) -> None:
    (scheduler,) = hosts.group("dask_scheduler").values()
    scheduler.check_output("systemctl stop dask-main-scheduler")
    try:
        wait_until(lambda: prometheus.alerts().get("DaskSchedulerDown") == "firing", "the scheduler is missed")
        assert set(prometheus.alerts()) == {"DaskSchedulerDown"}
        run = watch()
    finally:
        scheduler.check_output("systemctl start dask-main-scheduler")
    assert not run.ok
    assert "/metrics of the scheduler, asked from host" in run.problems
    assert "it does not answer" in run.problems


@pytest.mark.usefixtures("quiet")
def test_a_task_that_raised_is_told_with_its_name(prometheus: Prometheus, cluster: Cluster) -> None:
    failing = "from distributed import Client\nwith Client() as client:\n    client.submit(int, 'x').exception()\n"
    assert not cluster.job("told", script="failing.py", content=failing).get("failed")
    cluster.job("told", state="absent")
    wait_until(lambda: prometheus.alerts().get("DaskTasksErred") == "firing", "the error is told")
    alert = prometheus.alert("DaskTasksErred")
    assert re.search(r"about [1-9]\d* tasks? erred", alert["annotations"]["summary"])
    assert re.search(r"\bint [1-9]", alert["annotations"]["description"])


@pytest.mark.usefixtures("quiet")
def test_metrics_that_are_empty_are_an_error_and_an_alert(prometheus: Prometheus, hosts: Hosts, watch: Watch) -> None:
    (scheduler,) = hosts.group("dask_scheduler").values()
    python = json.loads(scheduler.file("/etc/dask/main/cluster.json").content_string)["python"]
    where = scheduler.check_output("%s -c 'import prometheus_client as it; print(it.__path__[0])'", python)
    scheduler.check_output("mv %s %s.away && systemctl restart dask-main-scheduler", where, where)
    try:
        wait_until(lambda: prometheus.alerts().get("DaskMetricsMissing") == "firing", "empty metrics are told")
        run = watch()
    finally:
        scheduler.check_output("mv %s.away %s && systemctl restart dask-main-scheduler", where, where)
    assert not run.ok
    assert "has no dask_scheduler_workers: its environment has no prometheus_client" in run.problems


@pytest.mark.usefixtures("quiet")
def test_rules_that_prometheus_would_refuse_never_replace_those_that_work(
    prometheus: Prometheus, gateway: Host, watch: Watch
) -> None:
    before = gateway.file(RULES).content_string
    # Ansible renders it to a template of Prometheus' that has no end.
    run = watch(dask_monitoring_alert_labels={"team": "{{ '{' }}{ lab"})
    assert list(run.failed) == ["flotilla.dask.dask_monitoring : Write the rules for alerts"], run.problems
    assert gateway.file(RULES).content_string == before
    run = watch(dask_monitoring_alertmanagers=["alerts.example:9093"], dask_monitoring_alert_labels={"team": "lab"})
    assert run.ok, run.problems
    wait_until(
        lambda: all(rule["labels"].get("team") == "lab" for rule in prometheus.ask("rules")["groups"][0]["rules"]),
        "Prometheus has read the rules again",
    )
    assert watch().ok


def test_what_prometheus_would_not_take_is_refused_in_words(watch: Watch) -> None:
    wrong = {
        "dask_monitoring_listen": "9090",
        "dask_monitoring_memory_share": 80,
        "dask_monitoring_certificate_days": 30,
        "dask_monitoring_alertmanagers": ["http://a"],
    }
    refused = [
        "dask_monitoring_listen: '9090' is refused",
        "dask_monitoring_memory_share: 80 is refused",
        "dask_monitoring_certificate_days: 30 is refused",
        "dask_monitoring_alertmanagers[0]: 'http://a' is refused",
    ]
    run = watch("--check", **wrong)
    assert not run.ok
    assert [each for each in refused if each not in run.problems] == []
    assert run.changed == {}

    limited = watch("--check", "--limit", "gateway,scheduler")
    assert not limited.ok
    assert "nothing is known of worker1. Allowed: a run with all hosts" in limited.problems
    assert limited.changed == {}


@pytest.fixture
def elsewhere(gateway: Host) -> Iterator[dict[str, object]]:
    """What an owner of a Prometheus says, and a Grafana's directory; gone afterwards."""
    gateway.check_output("install -d /srv/owner/targets /srv/owner/rules /srv/grafana/dashboards")
    yield {
        "dask_monitoring_prometheus": "existing",
        "dask_monitoring_targets_directory": "/srv/owner/targets",
        "dask_monitoring_rules_directory": "/srv/owner/rules",
        "dask_monitoring_service": "",
        "dask_monitoring_grafana_provisioning": "/srv/grafana",
        "dask_monitoring_grafana_service": "",
    }
    gateway.check_output("rm -r /srv/owner /srv/grafana")


def test_an_existing_prometheus_and_grafana_get_files_and_lose_them_again(
    gateway: Host, watch: Watch, elsewhere: dict[str, object]
) -> None:
    ours = gateway.file(TARGETS).content_string
    assert watch(**elsewhere).ok
    again = watch(**elsewhere)
    assert (again.ok, again.changed) == (True, {}), again.problems
    assert gateway.file("/srv/owner/targets/dask-main.json").content_string == ours
    assert gateway.file("/srv/owner/rules").listdir() == ["dask-main.yml"]
    assert sorted(gateway.file("/srv/grafana/dashboards").listdir()) == ["flotilla-dask", "flotilla-dask.yaml"]
    assert sorted(gateway.file("/srv/grafana/dashboards/flotilla-dask").listdir()) == ["cluster.json", "workers.json"]
    assert watch(entry="remove", **elsewhere).ok
    for directory in ("/srv/owner/targets", "/srv/owner/rules", "/srv/grafana/dashboards"):
        assert gateway.file(directory).listdir() == []


def test_removed_it_leaves_nothing_and_a_first_run_is_predicted(gateway: Host, watch: Watch) -> None:
    make_untouched(gateway, watch)
    predicted = watch("--check", "--diff")
    assert predicted.ok, predicted.problems
    assert not gateway.file("/etc/prometheus").exists
    real = watch("--diff")
    assert real.ok, real.problems
    assert predicted.changed == real.changed != {}


def make_untouched(gateway: Host, watch: Watch) -> None:
    """Makes the host as it was before the role's first run."""
    run = watch(entry="remove")
    assert run.ok, run.problems
    assert not gateway.service("prometheus").is_running
    assert not gateway.service("prometheus").is_enabled
    assert not gateway.file("/etc/prometheus/dask").exists
    assert not gateway.file("/etc/systemd/system/prometheus.service.d").exists
    again = watch(entry="remove")
    assert (again.ok, again.changed) == (True, {}), again.problems
    gateway.check_output("DEBIAN_FRONTEND=noninteractive apt-get purge -qq prometheus && rm -rf /etc/prometheus")
    gateway.check_output("rm -rf /var/lib/apt/lists/* && touch --date=@0 /var/lib/apt/lists")
