# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes, hosts and networks fail while a job has its results on the workers; the job finishes all the same."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from testbed import HELD_SUM_OUTPUT, Ansible, Cluster, Hosts, Machines, Scattered, wait_until

WORKER = "worker-small-0"
WORKERS = "dask-main-worker-small-0 dask-main-worker-small-1 dask-main-worker-large-0"
SPILL = "/var/lib/dask/main/spill"

# Keeps more on one worker than Dask wants to have in memory, and uses it.
CROWD = """
import os
from distributed import Client, wait

with Client() as client:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (here,) = [address for address, worker in workers.items() if worker["name"] == "worker1-small-0"]
    blocks = client.map(lambda number: os.urandom(25_000_000), range(13), workers=[here], pure=False)
    wait(blocks)
    print(sum(client.gather(client.map(len, blocks, pure=False))))
"""

# Has a task on one worker that ends when a file is there.
SLOW = """
import os
import time
from distributed import Client

def slow(marker):
    while not os.path.exists(marker):
        time.sleep(0.05)
    return os.environ["DASK_CONFIG"]

with Client() as client:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (here,) = [address for address, worker in workers.items() if worker["name"] == "worker1-small-0"]
    task = client.submit(slow, "/var/lib/dask/main/go", workers=[here], pure=False)
    print(task.result())
"""


def kill(cluster: Cluster, hosts: Hosts, host: str, process: str, what: str) -> None:
    """Kills the nanny (or scheduler) itself, or the worker process that is its child."""
    main = cluster.main_pid(host, process)
    children = hosts[host].check_output(f"pgrep --parent {main} --full spawn_main || true").split()
    (pid,) = children if what == "worker" else [main]
    hosts[host].check_output(f"kill -KILL {pid}")


def healthy(cluster: Cluster) -> bool:
    state = cluster.state(wait=300)
    return state["health"] == "healthy" and len(state["workers"]) == 6


def test_a_worker_process_is_killed_that_holds_data(cluster: Cluster, hosts: Hosts, held_job: str) -> None:
    kill(cluster, hosts, "worker1", WORKER, "worker")
    record = cluster.release_job(held_job)
    assert (record["state"], record["attempts"]) == ("finished", 1)
    assert record["output"].endswith(HELD_SUM_OUTPUT)
    assert healthy(cluster)


def test_a_nanny_is_killed(cluster: Cluster, hosts: Hosts, held_job: str) -> None:
    before = cluster.main_pid("worker1", WORKER)
    kill(cluster, hosts, "worker1", WORKER, "nanny")
    record = cluster.release_job(held_job)
    assert (record["state"], record["attempts"]) == ("finished", 1)
    assert record["output"].endswith(HELD_SUM_OUTPUT)
    assert healthy(cluster)
    assert cluster.main_pid("worker1", WORKER) not in (0, before)


def test_the_scheduler_is_killed(
    cluster: Cluster, hosts: Hosts, held_job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = time.monotonic()
    kill(cluster, hosts, "scheduler", "scheduler", "scheduler")
    assert healthy(cluster)
    workers_back = time.monotonic() - killed
    record = cluster.release_job(held_job)
    assert (record["state"], record["attempts"]) == ("finished", 2)
    assert record["output"].endswith(HELD_SUM_OUTPUT)
    finished = time.monotonic() - killed
    with capsys.disabled():
        print(
            f"\ntime to recovery: all workers back after {workers_back:.1f} s, the job finished after {finished:.1f} s"
        )


def test_the_network_of_a_host_is_cut_for_twenty_seconds(cluster: Cluster, machines: Machines, held_job: str) -> None:
    with machines.cut_off("worker1"):
        end = time.monotonic() + 20
        wait_until(lambda: time.monotonic() > end, "the time is over")
    record = cluster.release_job(held_job)
    assert (record["state"], record["attempts"]) == ("finished", 1)
    assert record["output"].endswith(HELD_SUM_OUTPUT)
    assert healthy(cluster)


def test_a_host_is_stopped_that_holds_scattered_data(
    ansible: Ansible, hosts: Hosts, cluster: Cluster, machines: Machines
) -> None:
    with Scattered(ansible, hosts["scheduler"], "worker1-small-0") as held:
        machines.stop("worker1")
        try:
            assert {worker["name"].partition("-")[0] for worker in cluster.state()["workers"]} == {"worker2"}
            _before, after = held.release()
        finally:
            machines.start("worker1")
    assert after["bytes"] == 5_000_000
    assert healthy(cluster)


@pytest.fixture
def full_disk(hosts: Hosts, cluster: Cluster) -> Iterator[None]:
    """The workers of worker1 spill to a file system that is full."""
    host = hosts["worker1"]
    host.check_output(f"systemctl stop {WORKERS}")
    host.check_output(f"mount -t tmpfs -o size=1m,uid=$(id -u dask),mode=0755 tmpfs {SPILL}")
    host.run(f"dd if=/dev/zero of={SPILL}/full bs=64k count=12")
    host.check_output(f"systemctl start {WORKERS}")
    assert healthy(cluster)
    yield
    host.check_output(f"systemctl stop {WORKERS}")
    host.check_output(f"umount {SPILL}")
    host.check_output(f"systemctl start {WORKERS}")
    assert healthy(cluster)


@pytest.mark.usefixtures("full_disk")
def test_the_spill_directory_is_full(cluster: Cluster, hosts: Hosts) -> None:
    result = cluster.job("crowd", script="crowd.py", content=CROWD, timeout=120)
    assert not result.get("failed"), result["msg"]
    assert result["job"]["output"].splitlines()[-1] == str(13 * 25_000_000)
    log = hosts["worker1"].check_output("journalctl --no-pager --unit dask-main-worker-small-0 --lines 100")
    assert "Spill to disk failed; keeping data in memory" in log
    cluster.job("crowd", state="absent")


def test_the_controller_is_killed_while_a_host_is_drained(ansible: Ansible, hosts: Hosts, cluster: Cluster) -> None:
    host = hosts["worker1"]
    host.check_output("rm -f /var/lib/dask/main/go")
    assert cluster.job("slow", script="slow.py", content=SLOW, state="submitted")["changed"]
    wait_until(
        lambda: any(worker["tasks"]["executing"] for worker in cluster.state()["workers"]), "the task is executing"
    )
    drain = ansible.start("flotilla.dask.drain", "--limit", "worker1", extra_vars={})
    try:
        log = "journalctl --no-pager --unit dask-main-worker-small-0 --since -1min"
        wait_until(lambda: "draining worker" in host.check_output(log).rpartition("Started")[2], "the drain begins")
        assert drain.poll() is None
    finally:
        os.killpg(drain.pid, signal.SIGKILL)
        drain.wait()
    # What the killed controller had asked for goes on without it.
    stops = "'[s]ystemctl stop dask-main-worker'"
    host.run(f"pkill -f {stops}")
    wait_until(lambda: host.run(f"pgrep -f {stops}").failed, "nobody waits for the stop")
    again = ansible.start("flotilla.dask.drain", "--limit", "worker1", extra_vars={})
    wait_until(lambda: host.run(f"pgrep -f {stops}").succeeded or again.poll() is not None, "the second drain waits")
    host.check_output("touch /var/lib/dask/main/go")
    assert again.wait() == 0
    record = cluster.job("slow", script="slow.py", content=SLOW)["job"]
    assert (record["state"], record["attempts"]) == ("finished", 1)
    assert {worker["name"].partition("-")[0] for worker in cluster.state()["workers"]} == {"worker2"}
    back = ansible.playbook("flotilla.dask.drain", "--limit", "worker1", extra_vars={"dask_drain_state": "back"})
    assert back.ok, back.problems
    assert healthy(cluster)


def test_a_run_was_killed_before_systemd_was_told_and_two_runs_meet(
    ansible: Ansible, hosts: Hosts, cluster: Cluster
) -> None:
    host = hosts["worker1"]
    unit = "/etc/systemd/system/dask-main-worker-small-0.service"
    # The process is started with an older file, and systemd is not told of the newer one.
    host.check_output(f"cp -p {unit} /root/unit && sed -i 's/^Environment=FLOTILLA_DEFINITION=.*/&0/' {unit}")
    host.check_output("systemctl daemon-reload && systemctl restart dask-main-worker-small-0")
    host.check_output(f"mv /root/unit {unit} && touch {unit}")
    assert healthy(cluster)
    old = {process: cluster.main_pid("worker1", process) for process in (WORKER, "worker-small-1")}
    first = ansible.start("flotilla.dask.site", extra_vars={})
    record = "ls /run/flotilla-dask/*.json"
    wait_until(lambda: hosts["scheduler"].run(record).succeeded or first.poll() is not None, "the run has begun")
    second = ansible.playbook("flotilla.dask.site")
    assert not second.ok
    assert "another run has been changing the cluster 'main' since" in second.problems
    assert first.wait() == 0
    new = {process: cluster.main_pid("worker1", process) for process in old}
    assert new[WORKER] != old[WORKER]
    assert new["worker-small-1"] == old["worker-small-1"]
    assert host.check_output(f"systemctl show --property NeedDaemonReload {WORKERS}").split() == 3 * [
        "NeedDaemonReload=no"
    ]
    wait_until(lambda: hosts["scheduler"].run(record).failed, "the record has gone with the run")
    assert ansible.playbook("flotilla.dask.site").changed == {}
