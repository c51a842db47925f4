# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker that is stopped loses nothing, or says what; and one with other software than the scheduler's stays out."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
import typing as t
from pathlib import Path

import pytest
from distributed import Client

from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.tests.cluster.conftest import SECONDS, Ansible, Cluster

ONE, TWO = "worker-one-0", "worker-two-0"
QUICKLY = 20.0
"""Seconds. More than any stop takes that doesn't use up the time for a drain."""


@pytest.fixture
def client(cluster: Cluster) -> t.Iterator[Client]:
    with Client(cluster.plan["description"]["scheduler"], set_as_default=False) as client:
        yield client


@pytest.fixture
def gate(tmp_path: Path) -> t.Iterator[Path]:
    """What a task waits for that ``hold`` started."""
    yield tmp_path / "release"
    (tmp_path / "release").touch()


def address(cluster: Cluster, name: str) -> str:
    """The address of a worker of the plan."""
    (port,) = [each["ports"]["worker"] for each in cluster.plan["processes"] if each["name"] == name]
    return "tls://127.0.0.1:{0}".format(port)


def hold(client: Client, cluster: Cluster, name: str, gate: Path) -> t.Any:
    """A task that runs on a worker, and as long as ``gate`` isn't there."""
    wait_for_file = importlib.import_module("lab").wait_for_file
    started = gate.parent / "started"
    task = client.submit(
        wait_for_file, str(started), str(gate), workers=[address(cluster, name)], allow_other_workers=True, pure=False
    )
    wait_for(started.exists, SECONDS, "the task to begin")
    return task


def begin_stop(cluster: Cluster, name: str) -> int:
    """Sends a worker the signal that launchers send, and returns how long its log was."""
    written = cluster.log(name).stat().st_size
    os.kill(cluster.running[name].pid, signal.SIGTERM)
    return written


def end_stop(cluster: Cluster, name: str, written: int) -> str:
    """Waits for the end of a process, and returns what it logged meanwhile."""
    cluster.running[name].wait(SECONDS)
    return cluster.log(name).read_bytes()[written:].decode()


def stop(cluster: Cluster, name: str) -> str:
    return end_stop(cluster, name, begin_stop(cluster, name))


def test_what_was_scattered_to_a_worker_is_still_there_after_its_stop(cluster: Cluster, client: Client) -> None:
    here = address(cluster, ONE)
    held = [client.scatter(os.urandom(1_000_000), workers=[here], direct=True) for _each in range(3)]
    log = stop(cluster, ONE)
    assert "drained: 3 keys, 3.0 MB moved in " in log
    assert cluster.registered() == {cluster.workers[1]}
    assert [len(data) for data in client.gather(held)] == [1_000_000] * 3


def test_what_executes_is_finished_and_what_waits_behind_it_goes_elsewhere_at_once(
    cluster: Cluster, client: Client, gate: Path
) -> None:
    here = address(cluster, ONE)
    task = hold(client, cluster, ONE, gate)
    behind = client.map(int, range(20), workers=[here], allow_other_workers=True, pure=False)
    written = begin_stop(cluster, ONE)
    assert client.gather(behind) == list(range(20))
    assert cluster.running[ONE].poll() is None
    gate.touch()
    assert "drained: 1 keys, " in end_stop(cluster, ONE, written)
    assert task.result() == "released"
    assert len((gate.parent / "started").read_text().splitlines()) == 1


def test_the_last_worker_says_what_is_lost_and_stops_at_once(cluster: Cluster, client: Client, gate: Path) -> None:
    stop(cluster, TWO)
    here = address(cluster, ONE)
    lost = client.scatter({"the-only-copy": os.urandom(2_000_000)}, workers=[here])
    task = hold(client, cluster, ONE, gate)
    began = time.monotonic()
    log = stop(cluster, ONE)
    assert time.monotonic() - began < QUICKLY
    assert "not drained, as no other worker can take its data: 0 keys, 0.0 MB moved in " in log
    assert "lost: 1 keys, 2.0 MB, of which 1 cannot be computed again: the-only-copy; not finished: 1 tasks: " in log
    gate.touch()
    cluster.start()
    assert task.result(timeout=SECONDS) == "released"
    assert lost["the-only-copy"].status in ("cancelled", "lost")


def test_a_worker_stops_when_its_time_is_over_and_its_task_begins_again_elsewhere(
    cluster: Cluster, client: Client, gate: Path
) -> None:
    cluster.lose(cluster.workers[0])
    cluster.launch(ONE, FLOTILLA_DRAIN_SECONDS="2")
    cluster.start()
    task = hold(client, cluster, ONE, gate)
    data = client.scatter(os.urandom(1_000_000), workers=[address(cluster, ONE)], direct=True)
    began = time.monotonic()
    log = stop(cluster, ONE)
    assert 2 <= time.monotonic() - began < QUICKLY
    assert "not drained, as the time was over: 1 keys, 1.0 MB moved in 2." in log
    assert "lost: " not in log
    assert "not finished: 1 tasks: wait_for_file-" in log
    gate.touch()
    assert task.result(timeout=SECONDS) == "released"
    assert len(data.result()) == 1_000_000


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["silent", "gone"])
def test_a_lost_scheduler_does_not_hold_up_a_stop(cluster: Cluster, number: signal.Signals) -> None:
    scheduler = cluster.running["scheduler"].pid
    os.kill(scheduler, signal.SIGSTOP)
    began = time.monotonic()
    written = begin_stop(cluster, ONE)
    if number == signal.SIGKILL:
        cluster.kill("scheduler")
    log = end_stop(cluster, ONE, written)
    assert time.monotonic() - began < QUICKLY
    assert " moved in " not in log
    cluster.kill("scheduler")
    cluster.wait_without_scheduler()


def test_workers_that_stop_together_do_not_take_each_others_word_for_the_data(cluster: Cluster, client: Client) -> None:
    data = client.scatter(os.urandom(1_000_000), broadcast=True)
    written = {name: begin_stop(cluster, name) for name in (ONE, TWO)}
    logs = [end_stop(cluster, name, each) for name, each in written.items()]
    assert any("lost: 1 keys, 1.0 MB, of which 1 cannot be computed again" in log for log in logs), logs
    cluster.start()
    del data


@pytest.fixture
def other_software(cluster: Cluster) -> dict[str, str]:
    """Variables of a process whose environment isn't the cluster's and has a package more."""
    metadata = cluster.packages / "elsewhere" / "made_up-2.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: made_up\nVersion: 2.0\n")
    path = "{0}:{1}".format(metadata.parent, cluster.plan["description"]["environment"]["PYTHONPATH"])
    return {"FLOTILLA_ENVIRONMENT": "dask-another", "PYTHONPATH": path}


def mismatch(cluster: Cluster) -> str:
    words = "environment dask-another isn't the scheduler's {0}; packages that differ: made-up 2.0 (scheduler: missing)"
    return words.format(cluster.plan["description"]["environment"]["FLOTILLA_ENVIRONMENT"])


def test_a_worker_with_other_software_is_refused_and_says_which(
    cluster: Cluster, other_software: dict[str, str]
) -> None:
    cluster.lose(cluster.workers[0])
    written = cluster.log(ONE).stat().st_size
    assert cluster.launch(ONE, **other_software).wait(SECONDS) == 1
    log = cluster.log(ONE).read_bytes()[written:].decode()
    assert "refused: {0}. Run flotilla.dask.site".format(mismatch(cluster)) in log
    assert "Traceback" not in log
    assert "Start Nanny" not in log
    assert cluster.registered() == {cluster.workers[1]}

    cluster.launch(ONE, **other_software, FLOTILLA_MISMATCH="warn")
    wait_for(lambda: cluster.registered() == set(cluster.workers), SECONDS, "the worker to join")
    assert "the worker joins, though " + mismatch(cluster) in cluster.log(ONE).read_text()
    cluster.lose(cluster.workers[0])


def test_a_client_with_other_software_is_told_which_and_refused(
    cluster: Cluster, ansible: Ansible, other_software: dict[str, str]
) -> None:
    description = dict(cluster.plan["description"])
    path = Path(cluster.plan["directories"]["description"])
    options = {"name": "stranger", "function": "lab:square_all", "arguments": [[3]]}
    try:
        description["environment"] = {**description["environment"], **other_software}
        path.write_text(json.dumps(description))
        state = ansible.info()["cluster"]
        assert (state["health"], state["reasons"]) == ("degraded", ["this host's " + mismatch(cluster)])
        assert state["environment"] == cluster.plan["description"]["environment"]["FLOTILLA_ENVIRONMENT"]
        refused = ansible.job(**options)
        assert refused["failed"]
        assert refused["job"]["reason"] == "environment"
        assert mismatch(cluster) in refused["msg"]

        description["environment"]["FLOTILLA_MISMATCH"] = "warn"
        path.write_text(json.dumps(description))
        warned = ansible.job(**options, rerun=True)
        assert warned["job"]["result"] == {"3": 9}
        assert mismatch(cluster) in warned["job"]["output"]
    finally:
        path.write_text(json.dumps(cluster.plan["description"]))
