# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever has a task on the cluster is the cluster's account on its hosts, and stays that; and so is a local user."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from testbed import JOBS, Ansible, Cluster, Hosts, wait_until
from testinfra.host import Host

# Has the scheduler answer with what runs a command wherever it is unpickled.
POISON = """
from distributed import Client


def poison(dask_scheduler):
    import os

    from distributed.protocol import to_serialize

    class Evil:
        def __reduce__(self):
            return os.system, ("id -u >> /tmp/pwned",)

    real = dask_scheduler.handlers["identity"]

    def identity(*args, **kwargs):
        return {**real(*args, **kwargs), "evil": to_serialize(Evil())}

    dask_scheduler.handlers["identity"] = identity


Client().run_on_scheduler(poison)
"""

# What a task leaves running, with nothing that leads from the job to it.
LEFTOVER = """
import subprocess

subprocess.Popen(["setsid", "sleep", "7654"], start_new_session=True)
"""


def as_dask(host: Host, script: str) -> str:
    """What a task can do on its host."""
    return str(host.check_output("runuser -u dask -- sh -c " + shlex.quote(script)))


def test_what_a_job_is_told_and_says_is_its_accounts_alone(cluster: Cluster, hosts: Hosts) -> None:
    job = cluster.job("told", function="json:dumps", arguments=["told-to-nobody"])
    assert job["job"]["result"] == '"told-to-nobody"'
    scheduler = hosts["scheduler"]
    assert scheduler.run("journalctl --quiet --all | grep --count 'told-to-nobod[y]'").stdout.strip() == "0"
    assert not scheduler.run(f"runuser -u nobody -- ls {JOBS}").succeeded
    assert scheduler.check_output(f"find {JOBS}/told -perm /077") == ""
    cluster.job("told", state="absent")


@pytest.fixture
def poisoned(cluster: Cluster, hosts: Hosts) -> Iterator[None]:
    """A scheduler that a task has changed, until it is restarted."""
    job = cluster.job("poison", script="poison.py", content=POISON)
    assert not job.get("failed"), job["msg"]
    yield
    hosts["scheduler"].check_output("systemctl restart dask-main-scheduler")
    for host in hosts.group("all").values():
        host.check_output("rm -f /tmp/pwned")
    cluster.job("poison", state="absent")
    cluster.state(wait=300)


@pytest.mark.usefixtures("poisoned")
def test_a_scheduler_that_a_task_has_changed_gets_nothing_run_by_root(ansible: Ansible, hosts: Hosts) -> None:
    numbers = {}
    for name, host in hosts.group("all").items():
        ansible.module(name, "flotilla.dask.dask_cluster_info")
        numbers[name] = set(host.run("cat /tmp/pwned").stdout.split())
        assert numbers[name] <= {host.check_output("id -u dask")}, name
    assert any(numbers.values())  # it did run, as the account that asks


@pytest.fixture
def victim(hosts: Hosts) -> Iterator[int]:
    """A process of root's."""
    host = hosts["scheduler"]
    yield int(host.check_output("setsid sleep 7655 > /dev/null 2>&1 & echo $!"))
    host.run("pkill --full '[s]leep 7655'")


def test_a_forged_record_ends_no_process_of_somebody_else_and_shows_no_file_of_roots(
    cluster: Cluster, hosts: Hosts, victim: int
) -> None:
    host = hosts["scheduler"]
    started = host.check_output(f"cut -d ' ' -f 22 /proc/{victim}/stat")
    state = json.dumps({"state": "running", "attempts": 1, "started": 1.0, "pid": victim, "pid_started": int(started)})
    wanted: dict[str, Any] = {"name": "forged", "function": "lab:f", "script": "", "arguments": [], "digest": "0"}
    place = f"{JOBS}/forged"
    as_dask(host, f"mkdir {place} && ln -s /etc/shadow {place}/output.log && touch {place}/lock")
    as_dask(host, f"echo {shlex.quote(state)} > {place}/state.json")
    as_dask(host, f"echo {shlex.quote(json.dumps(wanted))} > {place}/specification.json")
    host.check_output(f"runuser -u dask -- setsid flock {place}/lock sleep 7656 > /dev/null 2>&1 &")
    wait_until(lambda: bool(host.run(f"flock --nonblock {place}/lock true").failed), "the lock is held")
    try:
        refused = cluster.job("forged", state="cancelled")
        assert refused["failed"]
        assert host.file(f"/proc/{victim}").exists
        told = cluster.job("forged", state="finished", function="lab:f", rerun=True)
        assert "root:" not in json.dumps(told)
    finally:
        host.run("pkill --full '[s]leep 7656'")
        host.run(f"rm -r {place}")


def test_links_of_the_account_lead_root_nowhere(ansible: Ansible, hosts: Hosts) -> None:
    host = hosts["worker1"]
    assert "denied" in host.run("runuser -u dask -- mv /var/lib/dask/main /var/lib/dask/x").stderr
    host.check_output("mkdir --mode 0700 /srv/rootonly && mkdir --mode 1777 /scratch")
    host.check_output("runuser -u operator -- ln -s /srv/rootonly /scratch/dask-main")
    groups = [{"name": "small", "memory": "512 MiB", "local_directory": "/scratch"}]
    try:
        refused = ansible.playbook("flotilla.dask.site", extra_vars={"dask_worker_groups": groups})
        assert not refused.ok
        assert refused.changed == {}
        assert "/scratch/dask-main" in refused.problems
        assert host.check_output("stat --format %U:%a /srv/rootonly") == "root:700"
    finally:
        host.check_output("rm -r /scratch /srv/rootonly")


def test_a_local_user_reads_neither_keys_nor_what_is_asked_of_jobs(hosts: Hosts) -> None:
    for name, host in hosts.group("all").items():
        tried = host.run("runuser -u operator -- cat /etc/dask/main/tls/host.pem")
        assert tried.rc != 0, name
        assert "PRIVATE" not in tried.stdout, name


def test_a_local_user_sees_no_page_of_the_cluster(hosts: Hosts) -> None:
    request = "printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
    for name, port in (("scheduler", 8787), ("worker1", 9200), ("worker1", 9210)):
        for account, status in (("operator", "403 Forbidden"), ("dask", "200 OK"), ("root", "200 OK")):
            command = f"exec 3<>/dev/tcp/127.0.0.1/{port}; {request}"
            answer = hosts[name].check_output(f"runuser -u {account} -- bash -c {shlex.quote(command)}")
            assert answer.strip() == f"HTTP/1.1 {status}", (name, port, account)


def test_what_a_job_leaves_running_is_no_longer_there_when_the_account_goes(cluster: Cluster, hosts: Hosts) -> None:
    job = cluster.job("leftover", script="leftover.py", content=LEFTOVER)
    assert not job.get("failed"), job["msg"]
    wait_until(lambda: bool(hosts["scheduler"].run("pgrep --full '[s]leep 7654'").stdout), "the process runs")
    # The test of teardown looks that no process of the account is left.
