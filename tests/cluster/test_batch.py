# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clusters inside jobs of PBS: all but the server is real. What Slurm does is tested on hosts that have it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan
from ansible_collections.flotilla.dask.tests.cluster.conftest import (
    LOOPBACK,
    ROOT,
    SECONDS,
    Ansible,
    Cluster,
    processes_that_mention,
)

COMMANDS = ("qsub", "qstat", "qselect", "qdel", "pbsdsh")
SITE = "login"
SECRET = "hunter2-hunter2"
SCRIPT = """
import os
import sys
from distributed import Client
with Client() as client:
    print("sum", client.submit(sum, range(10)).result(), *sys.argv[1:], len(os.environ["TOKEN"]))
sys.exit(int(sys.argv[1]))
"""


class Login:
    """A login host on this machine, its software, and what stands for its queue."""

    def __init__(self, directory: Path) -> None:
        self.ansible = Ansible(directory, directory / "clusters")
        self.shared = directory / 'it\'s "shared" $HOME'
        self.jobs = directory / "jobs"
        self.tools = directory / "tools"
        for path in (self.shared, self.jobs, self.tools):
            path.mkdir()
        text = "#!{0}\n{1}".format(sys.executable, (ROOT / "tests/cluster/queue_standin.py").read_text())
        for command in COMMANDS:
            (self.tools / command).write_text(text)
            (self.tools / command).chmod(0o755)
        self.plan = launch_plan(
            {
                "dask_cluster_name": SITE,
                "dask_launcher": "batch",
                "dask_home": str(self.ansible.home),
                "dask_host": {"name": "here", "address": LOOPBACK, "user": os.environ.get("USER", "root")},
                "dask_scheduler_address": LOOPBACK,
                "dask_environment_method": "existing",
                "dask_environment_path": sys.prefix,
                "dask_environment_plugin_sources": [{"requirement": "lab", "digest": "lab"}],
            }
        )
        site = Cluster(self.plan)
        site.install()
        (site.packages / "lab.py").write_text((ROOT / "tests" / "cluster" / "lab.py").read_text())

    def batch(self, name: str, *flags: str, **options: t.Any) -> dict[str, t.Any]:
        asked = {
            "cluster": SITE,
            "name": name,
            "chunks": 2,
            "cpus": 2,
            "memory": "512 MiB",
            "walltime": "00:10:00",
            "drain_seconds": 5,
            "variant": "threads",
            "interface": "lo",
            "directory": str(self.shared),
            "local_directory": "$HOME/scratch",
            "progress": 5,
        }
        return self.ansible.module("dask_batch_cluster", *flags, **{**asked, **options})

    def python(self, cluster: dict[str, t.Any], code: str) -> str:
        """What a program prints that finds the cluster as a user's does."""
        environment = {**os.environ, **cluster["environment"]}
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def job_is_known(self, name: str) -> bool:
        """Whether it is known which job the cluster is in."""
        state = self.ansible.home / SITE / "var" / "batch" / name / "state.json"
        return state.exists() and bool(json.loads(state.read_text())["job"])

    def absent(self, name: str) -> dict[str, t.Any]:
        return self.batch(name, state="absent")


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Login]:
    directory = tmp_path_factory.mktemp("batch")
    login = Login(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "{0}:{1}".format(login.tools, os.environ["PATH"]))
        patch.setenv("STANDIN_JOBS", str(login.jobs))
        yield login
    left = processes_that_mention(str(directory))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "something outlived the jobs"


def secrets_in(login: Login) -> dict[str, int]:
    """The files that have the secret's value, with their modes."""
    return {
        str(path.relative_to(login.shared)): path.stat().st_mode & 0o777
        for path in login.shared.rglob("*")
        if path.is_file() and SECRET in path.read_text(errors="replace")
    }


def succeed(result: dict[str, t.Any]) -> dict[str, t.Any]:
    assert not result["failed"], result["msg"]
    return result


def test_a_cluster_is_up_is_found_and_goes(login: Login) -> None:
    asked: dict[str, t.Any] = {"environment": {"TITLE": 'it\'s "mine"'}, "secrets": {"TOKEN": SECRET}}
    first = succeed(login.batch("analysis", "--diff", **asked))
    cluster = first["cluster"]
    assert (first["changed"], cluster["state"], cluster["workers"]) == (True, "running", 2)
    assert cluster["address"].startswith("tls://127.0.0.1:")
    assert cluster["leaves"] < cluster["ends"] == pytest.approx(cluster["started"] + 600)
    again = succeed(login.batch("analysis", **asked))
    assert (again["changed"], again["cluster"]["job"]) == (False, cluster["job"])
    info = succeed(login.ansible.info(cluster="analysis"))["cluster"]
    assert info["health"] == "healthy"
    assert [each["name"] for each in info["workers"]] == ["chunk-0", "chunk-1"]
    assert {each["threads"] for each in info["workers"]} == {2}
    assert {each["memory_limit"] for each in info["workers"]} == {512 * 2**20 - int(0.1 * 512 * 2**20)}
    job = succeed(login.ansible.job(cluster="analysis", name="sum", function="lab:square_all", arguments=[[1, 2]]))
    assert job["job"]["state"] == "finished"
    long = login.ansible.job(cluster="analysis", name="long", function="lab:square_all", timeout=3600)
    assert "before the walltime of job" in long["msg"]
    code = "import os; from distributed import Client; print(Client().run(lambda: len(os.environ['TOKEN'])))"
    assert login.python(cluster, code).count(str(len(SECRET))) == 2
    assert secrets_in(login) == {"analysis/secrets/TOKEN": 0o400}
    assert not processes_that_mention(SECRET)
    assert SECRET not in str((first, again, info))
    other = login.batch("analysis", chunks=3)
    assert "has another specification" in other["msg"]
    assert (Path(cluster["files"]).stat().st_mode & 0o077) == 0 or (
        login.shared / "analysis"
    ).stat().st_mode & 0o077 == 0
    assert list((login.ansible.directory / "scratch").iterdir())
    gone = succeed(login.absent("analysis"))
    assert gone["changed"]
    assert not (login.shared / "analysis").exists()
    assert list((login.ansible.directory / "scratch").iterdir()) == []
    assert not succeed(login.absent("analysis"))["changed"]
    assert "no Dask cluster called 'analysis'" in login.ansible.info(cluster="analysis")["msg"]


def test_a_secret_that_the_script_would_have_too_is_refused_before_anything_is_written(login: Login) -> None:
    refused = login.batch("refused", environment={"TOKEN": "x"}, secrets={"TOKEN": SECRET})
    assert "secrets.TOKEN: the name TOKEN is refused, as environment variables have it too" in refused["msg"]
    assert SECRET not in str(refused)
    assert not (login.shared / "refused").exists()


def test_check_mode_shows_the_script_and_submits_nothing(login: Login) -> None:
    before = list(login.jobs.iterdir())
    shown = succeed(login.batch("checked", "--check", "--diff"))
    assert shown["changed"]
    assert "#PBS -l select=2:ncpus=2:mpiprocs=1:mem=512mb" in shown["job_script"]
    assert "+#!/bin/bash" in shown["shown"]
    assert list(login.jobs.iterdir()) == before
    assert not (login.shared / "checked").exists()
    assert shown["jobqueue"]["jobqueue"]["pbs"]["cores"] == 2


def test_an_application_runs_inside_its_job_and_once(login: Login) -> None:
    asked: dict[str, t.Any] = {"script": "my sum.py", "content": SCRIPT, "arguments": ["0", "a b"], "chunks": 1}
    asked["secrets"] = {"TOKEN": SECRET}
    done = succeed(login.batch("nightly", **asked))
    assert (done["changed"], done["cluster"]["state"], done["cluster"]["exit_code"]) == (True, "finished", 0)
    assert Path(done["cluster"]["output"]).read_text() == "sum 45 0 a b {0}\n".format(len(SECRET))
    assert secrets_in(login) == {}
    assert not succeed(login.batch("nightly", **asked))["changed"]
    failed = login.batch("nightly", **{**asked, "arguments": ["3"]})
    assert (failed["failed"], failed["cluster"]["exit_code"]) == (True, 3)
    assert "exit status 3" in failed["msg"]
    assert "sum 45 3" in failed["msg"]
    function = succeed(login.batch("function", function="lab:square_all", arguments=[[3]], chunks=1))
    assert function["cluster"]["result"] == {"3": 9}
    for name in ("nightly", "function"):
        succeed(login.absent(name))


def test_what_keeps_a_cluster_from_starting_is_said_and_leaves_no_job(login: Login) -> None:
    unknown = login.batch("wrong", queue="nowhere")
    assert "Unknown queue. Correct 'queue'" in unknown["msg"]
    interface = login.batch("wrong", interface="ib7")
    assert "interface: 'ib7' is refused" in interface["msg"]
    assert "lo (127.0.0.1)" in interface["msg"]
    scratch = login.batch("wrong", local_directory="$NO_SUCH/x")
    assert "has a variable that is not set there" in scratch["msg"]
    walltime = login.batch("wrong", walltime="10")
    assert "walltime: '10' is refused" in walltime["msg"]
    wait_for(lambda: not processes_that_mention(str(login.shared)), SECONDS, "all jobs to be gone")
    succeed(login.absent("wrong"))


def test_a_queue_that_does_not_start_the_job_says_why(login: Login) -> None:
    waiting = login.batch("patient", queue="full", timeout=1, progress=1)
    assert "is not up after" in waiting["msg"]
    assert "Insufficient amount of resource: ncpus" in waiting["msg"]
    submitted = succeed(login.batch("patient", queue="full", state="submitted"))
    assert (submitted["changed"], submitted["cluster"]["state"]) == (False, "pending")
    succeed(login.absent("patient"))


def test_what_a_killed_job_left_is_recognised(login: Login) -> None:
    cluster = succeed(login.batch("killed", chunks=1))["cluster"]
    (process,) = (int((login.jobs / cluster["job"] / "pid").read_text()),)
    for pid in [process, *processes_that_mention(str(login.shared))]:
        os.kill(pid, signal.SIGKILL)
    (login.jobs / cluster["job"] / "deleted").touch()
    assert Path(cluster["endpoint"]).exists()
    told = login.ansible.info(cluster="killed")
    assert "was killed" in told["msg"]
    again = succeed(login.batch("killed", chunks=1))
    assert again["changed"]
    assert again["cluster"]["job"] != cluster["job"]
    succeed(login.absent("killed"))


# What is scattered cannot be computed again; a published dataset outlives the client that made it.
SCATTER = """
from distributed import Client
with Client() as client:
    (joined,) = (each for each in client.scheduler_info()["workers"].values() if each["name"].startswith("more-"))
    numbers = client.scatter(list(range(50)), workers=[joined["id"]], hash=False)
    client.publish_dataset(numbers=numbers)
"""
GATHER = """
from distributed import Client
with Client() as client:
    print(sum(client.gather(client.get_dataset("numbers"))))
"""


def test_more_workers_join_and_hand_over_what_they_have_when_they_leave(login: Login) -> None:
    grown = succeed(login.batch("growing", chunks=1, additional_chunks=1))
    assert [each["chunks"] for each in grown["cluster"]["more"]] == [1]
    succeed(login.ansible.info(cluster="growing", workers=2, wait=SECONDS / 2))
    assert not succeed(login.batch("growing", chunks=1, additional_chunks=1))["changed"]
    login.python(grown["cluster"], SCATTER)
    shrunk = succeed(login.batch("growing", chunks=1, additional_chunks=0))
    assert (shrunk["changed"], shrunk["cluster"]["more"]) == (True, [])

    def is_small() -> bool:
        return len(login.ansible.info(cluster="growing")["cluster"]["workers"]) == 1

    wait_for(is_small, SECONDS, "the worker to leave")
    assert login.python(grown["cluster"], GATHER) == "{0}\n".format(sum(range(50)))
    succeed(login.absent("growing"))


def test_a_cluster_that_nobody_uses_ends_and_comes_again(login: Login) -> None:
    first = succeed(login.batch("idle", chunks=1, idle_timeout=5))["cluster"]
    code = login.jobs / first["job"] / "code"
    wait_for(code.exists, SECONDS, "the job to end")
    assert code.read_text() == "0\n"
    assert not Path(first["endpoint"]).exists()
    again = succeed(login.batch("idle", chunks=1, idle_timeout=5))
    assert (again["changed"], again["cluster"]["job"] != first["job"]) == (True, True)
    succeed(login.absent("idle"))


def test_a_job_that_is_cancelled_while_it_is_waited_for_is_an_error_at_once(login: Login) -> None:
    told: list[dict[str, t.Any]] = []
    waiting = threading.Thread(target=lambda: told.append(login.batch("doomed", queue="full")))
    waiting.start()
    wait_for(lambda: login.job_is_known("doomed"), SECONDS, "the job to be submitted")
    number = len(list(login.jobs.iterdir()))
    (job,) = (path.name for path in login.jobs.iterdir() if path.name.startswith("{0}.".format(number)))
    subprocess.run([login.tools / "qdel", job], check=True)
    waiting.join()
    assert "Job {0} of batch cluster 'doomed' ended".format(job) in told[0]["msg"]
    succeed(login.absent("doomed"))


def test_jobs_end_with_the_cluster_that_they_run_on(login: Login) -> None:
    succeed(login.batch("busy", chunks=1))
    script = "import time\nfrom distributed import Client\nclient = Client()\ntime.sleep(600)\n"
    succeed(login.ansible.job(cluster="busy", name="long", script="long.py", content=script, state="submitted"))
    succeed(login.absent("busy"))
    assert not processes_that_mention(str(login.ansible.home / SITE / "var" / "batch" / "busy"))
