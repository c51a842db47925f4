# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was submitted is known, a refused job leaves nothing, and what a job left behind is told from one that lives."""

from __future__ import annotations

import json
import os
import pwd
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _clusters
from ansible_collections.flotilla.dask.plugins.module_utils._batch_clusters import BatchCluster, Record
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._queues import JobState, Queue, RefusedError


class Numbers(Queue):
    """A queue that only counts; its jobs are how a test says."""

    name = "slurm"
    command = "sbatch"

    def __init__(self) -> None:
        self.jobs: dict[str, JobState] = {}
        self.names: dict[str, str] = {}
        self.refuses = ""
        self.dies = False

    def submit(self, script: str, directory: str) -> str:
        assert Path(script).is_file()
        assert Path(directory).is_dir()
        if self.refuses:
            raise RefusedError(self.refuses)
        job = str(17 + len(self.jobs))
        self.jobs[job] = JobState("pending", "Resources")
        self.names[job] = Path(script).read_text()
        if self.dies:
            raise KeyboardInterrupt
        return job

    def state(self, job: str) -> JobState:
        return self.jobs[job]

    def cancel(self, job: str) -> None:
        self.jobs[job] = JobState("ended", "CANCELLED")

    def find(self, name: str) -> list[str]:
        return [job for job, state in self.jobs.items() if state.lives and self.names[job] == name]


@pytest.fixture
def queue() -> Numbers:
    return Numbers()


@pytest.fixture
def cluster(tmp_path: Path, queue: Numbers) -> BatchCluster:
    home = tmp_path / "site" / "etc"
    home.mkdir(parents=True)
    site = {
        "cluster": "site",
        "batch": {"directory": str(tmp_path / "site" / "var" / "batch")},
        "environment": {"DASK_CONFIG": "/lab/dask.yaml", "FLOTILLA_ENVIRONMENT": "x"},
        "jobs": str(tmp_path / "site" / "var" / "jobs"),
        "ports": [],
        "user": pwd.getpwuid(os.geteuid()).pw_name,
    }
    (home / "cluster.json").write_text(json.dumps(site))
    return BatchCluster(site, queue, "main")


def plan(tmp_path: Path, **changes: t.Any) -> dict[str, t.Any]:
    directory = tmp_path / "shared" / "main"
    made = {
        "application": False,
        "digest": "abc",
        "directory": str(directory),
        "job_name": "dask-main-abc",
        "stem": str(directory / "scripts" / "abc"),
        "job": {"drain_seconds": 0, "chunks": 1},
        "workers": [],
    }
    return {**made, **changes}


def submit(cluster: BatchCluster, tmp_path: Path, **changes: t.Any) -> Record:
    made = plan(tmp_path, **changes)
    return cluster.submit(made, made["job_name"], None, cluster.record())


def submit_more(cluster: BatchCluster, tmp_path: Path, chunks: int, wanted: int = 99) -> Record:
    made = plan(tmp_path, job_name="dask-main-more-abc", job={"drain_seconds": 0, "chunks": chunks})
    return cluster.submit_more(made, made["job_name"], wanted)


def endpoint(tmp_path: Path, job: str, **changes: t.Any) -> Path:
    directory = tmp_path / "shared" / "main"
    said = {
        "address": "tls://127.0.0.1:1",
        "dashboard": "",
        "ends": time.time() + 99,
        "leaves": time.time(),
        "job": job,
    }
    path = directory / "endpoint-{0}.json".format(job)
    path.write_text(json.dumps({**said, "ready": 1.0, "workers": 2, **changes}))
    link = directory / "endpoint.json"
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    return link


def test_what_is_submitted_is_found_by_its_name_and_only_answers_while_it_runs(
    cluster: BatchCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    submit(cluster, tmp_path)
    found = _clusters.find_cluster("main", str(tmp_path), alive=False)
    assert found["endpoint"] == str(tmp_path / "shared" / "main" / "endpoint.json")
    with pytest.raises(DaskError, match=r"Batch cluster 'main' is not running\. Start it"):
        _clusters.find_cluster("main", str(tmp_path))
    link = endpoint(tmp_path, "17")
    with pytest.raises(DaskError, match=r"nothing answers at tls://127.0.0.1:1 .*job 17 was killed.*is left over"):
        _clusters.find_cluster("main", str(tmp_path))
    link = endpoint(tmp_path, "17", ends=time.time() - 1)
    with pytest.raises(DaskError, match="the walltime of job 17 is over. {0} is left over".format(link)):
        _clusters.find_cluster("main", str(tmp_path))


def test_a_job_that_the_queue_refuses_leaves_nothing(cluster: BatchCluster, queue: Numbers, tmp_path: Path) -> None:
    queue.refuses = "unknown queue"
    with pytest.raises(RefusedError, match="unknown queue"):
        submit(cluster, tmp_path)
    assert cluster.record() is None
    assert not (tmp_path / "shared" / "main").exists()
    assert not Path(cluster.own).exists()


def test_a_job_that_the_queue_refuses_leaves_what_was_there_before(
    cluster: BatchCluster, queue: Numbers, tmp_path: Path
) -> None:
    before = submit(cluster, tmp_path)
    queue.cancel("17")
    queue.refuses = "unknown queue"
    with pytest.raises(RefusedError):
        submit(cluster, tmp_path, digest="def", stem=str(tmp_path / "shared" / "main" / "scripts" / "def"))
    assert cluster.record() == before
    assert cluster.last_script() == "dask-main-abc"
    assert [path.name for path in (tmp_path / "shared" / "main" / "scripts").glob("def*")] == []


def test_a_job_is_found_again_whose_module_was_killed_before_it_knew(
    cluster: BatchCluster, queue: Numbers, tmp_path: Path
) -> None:
    queue.dies = True
    with pytest.raises(KeyboardInterrupt):
        submit(cluster, tmp_path)
    assert (cluster.record() or {})["job"] == "17"
    with pytest.raises(KeyboardInterrupt):
        submit_more(cluster, tmp_path, chunks=2)
    with pytest.raises(KeyboardInterrupt):
        submit_more(cluster, tmp_path, chunks=2)
    assert [each["job"] for each in (cluster.record() or {})["more"]] == ["18", "19"]
    cluster.end(cluster.record() or {})
    assert not any(job.lives for job in queue.jobs.values())


def test_a_job_that_never_came_to_be_is_submitted_anew(cluster: BatchCluster, queue: Numbers, tmp_path: Path) -> None:
    queue.dies = True
    with pytest.raises(KeyboardInterrupt):
        submit(cluster, tmp_path)
    del queue.jobs["17"]
    record = cluster.record()
    assert record
    assert (record["job"], cluster.job(record), cluster.has_begun(record)) == ("", None, False)
    queue.dies = False
    assert submit(cluster, tmp_path)["job"] == "17"


def test_nobody_submits_what_somebody_else_just_did(cluster: BatchCluster, queue: Numbers, tmp_path: Path) -> None:
    made = plan(tmp_path)
    cluster.submit(made, made["job_name"], None, None)
    with pytest.raises(DaskError, match="submitted by somebody else"):
        cluster.submit(made, made["job_name"], None, None)
    submit_more(cluster, tmp_path, chunks=2, wanted=2)
    submit_more(cluster, tmp_path, chunks=2, wanted=2)
    assert list(queue.jobs) == ["17", "18"]
    with cluster.locked(), pytest.raises(DaskError, match="is being changed by somebody else"):
        submit_more(cluster, tmp_path, chunks=2)


def test_files_are_their_owners_alone(cluster: BatchCluster, tmp_path: Path) -> None:
    submit(cluster, tmp_path)
    assert (tmp_path / "shared" / "main").stat().st_mode & 0o077 == 0
    assert cluster.last_script() == "dask-main-abc"


def test_a_name_of_another_specification_is_refused(cluster: BatchCluster, tmp_path: Path) -> None:
    record = submit(cluster, tmp_path)
    cluster.refuse_another(record, plan(tmp_path))
    with pytest.raises(DaskError, match="job 17 of that name has another specification"):
        cluster.refuse_another(record, plan(tmp_path, digest="def"))


def test_a_cluster_is_up_when_its_own_job_says_so(cluster: BatchCluster, queue: Numbers, tmp_path: Path) -> None:
    record = submit(cluster, tmp_path)
    assert cluster.wait(record, 0, 0)["state"] == "pending"
    queue.jobs["17"] = JobState("running")
    assert cluster.wait(record, 0, 0)["state"] == "starting"
    endpoint(tmp_path, "16")
    assert cluster.wait(record, 0, 0)["state"] == "starting"
    endpoint(tmp_path, "17", ready=0)
    assert cluster.wait(record, 0, 0)["state"] == "starting"
    endpoint(tmp_path, "17")
    state = cluster.wait(record, 0, 0)
    assert (state["state"], state["workers"]) == ("running", 2)
    assert state["environment"] == {"DASK_CONFIG": "/lab/dask.yaml", "DASK_SCHEDULER_ADDRESS": "tls://127.0.0.1:1"}
    queue.jobs["17"] = JobState("ended", "NODE_FAIL", exit_code=1)
    stale = cluster.wait(record, 0, 0)
    assert (stale["state"], stale["address"]) == ("failed", "")


def test_waiting_ends_with_the_queues_reason(cluster: BatchCluster, queue: Numbers, tmp_path: Path) -> None:
    record = submit(cluster, tmp_path)
    record["submitted"] -= 10
    with pytest.raises(DaskError, match=r"not up after 10 s: job 17 is pending \(Resources\). It stays in the queue"):
        cluster.wait(record, 0, 5)
    queue.jobs["17"] = JobState("pending", "PartitionTimeLimit: too long", never=True)
    with pytest.raises(DaskError, match="can never start, and was cancelled: PartitionTimeLimit: too long"):
        cluster.wait(record, 0, 0)
    assert not queue.state("17").lives


def test_how_a_job_ended_is_said_by_the_best_witness(cluster: BatchCluster, queue: Numbers, tmp_path: Path) -> None:
    record = submit(cluster, tmp_path)
    queue.jobs["17"] = JobState("ended", "FAILED", exit_code=97)
    told = cluster.describe_end(record, cluster.state(record))
    assert "with exit status 97 (FAILED), and left no word in" in told
    files = tmp_path / "shared" / "main" / "jobs" / "17"
    files.mkdir(parents=True)
    (tmp_path / "shared" / "main" / "queue-17.log").write_text("slurmstepd: no space\n")
    assert "slurmstepd: no space" in cluster.describe_end(record, cluster.state(record))
    (files / "problem-0").write_text("node n1: interface: 'ib0' is refused\n")
    (files / "exit").write_text("1\n")
    told = cluster.describe_end(record, cluster.state(record))
    assert "with exit status 1 (FAILED). It said:\nnode n1: interface" in told


def test_an_end_takes_all_jobs_and_files(cluster: BatchCluster, queue: Numbers, tmp_path: Path) -> None:
    submit(cluster, tmp_path)
    record = submit_more(cluster, tmp_path, chunks=2)
    assert [each["job"] for each in cluster.living_more(record)] == ["18"]
    cluster.end(record)
    assert not any(job.lives for job in queue.jobs.values())
    assert not (tmp_path / "shared" / "main").exists()
    assert cluster.record() is None


def test_whole_jobs_leave_newest_first(cluster: BatchCluster, tmp_path: Path) -> None:
    submit(cluster, tmp_path)
    for chunks in (2, 3, 1):
        record = submit_more(cluster, tmp_path, chunks)
    for wanted, leaving in ((4, ["20"]), (2, ["19"]), (1, [])):
        assert cluster.surplus(record, wanted) == leaving
        cluster.shrink(record, leaving)
    assert [each["job"] for each in (cluster.record() or {})["more"]] == ["18"]
