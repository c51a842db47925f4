# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dask_job and dask_job_info: a job that has finished is a state to reach, whatever fails on the way."""

from __future__ import annotations

import json
import os
import signal
import stat
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.tests.cluster.conftest import (
    SECONDS,
    Ansible,
    Cluster,
    processes_that_mention,
)


@dataclass
class Held:
    """A job that runs on a worker until the test releases it."""

    name: str
    started: Path
    gate: Path

    @property
    def options(self) -> dict[str, t.Any]:
        arguments = {"started": str(self.started), "release": str(self.gate)}
        return {"name": self.name, "function": "lab:hold", "arguments": arguments}

    def worker(self) -> str:
        """The name of the worker that runs it now, once one does."""
        wait_for(lambda: self.started.exists() and self.started.read_text().endswith("\n"), SECONDS, "the job to start")
        return self.started.read_text().splitlines()[-1]

    def release(self) -> None:
        self.gate.touch()


@pytest.fixture
def held(request: pytest.FixtureRequest, tmp_path: Path, ansible: Ansible) -> t.Iterator[Held]:
    job = Held(request.node.name.replace("_", "-")[:100], tmp_path / "started", tmp_path / "release")
    yield job
    job.release()
    ansible.job(name=job.name, state="absent")


@pytest.fixture
def release(tmp_path: Path) -> t.Iterator[Path]:
    """A file that lets a script go on, at the end of the test at the latest."""
    path = tmp_path / "release"
    yield path
    path.touch()


@pytest.mark.usefixtures("cluster")
def test_a_function_runs_once_for_each_specification(ansible: Ansible) -> None:
    first = {"name": "squares", "function": "lab:square_all", "arguments": {"numbers": [1, 2, 3]}}

    predicted = ansible.job("--check", **first)
    assert predicted["changed"]
    assert ansible.record("squares") is None

    ran = ansible.job(**first)
    assert ran["changed"]
    assert (ran["job"]["state"], ran["job"]["result"]) == ("finished", {"1": 1, "2": 4, "3": 9})

    again = ansible.job(**first)
    assert not again["changed"]
    assert again["job"] == ran["job"]
    assert ansible.record("squares") == ran["job"]

    second = {**first, "arguments": {"numbers": [4]}}
    predicted = ansible.job("--check", "--diff", **second)
    assert predicted["changed"]
    assert "-            1," in predicted["shown"]
    assert "+            4" in predicted["shown"]
    assert ansible.record("squares") == ran["job"]

    other = ansible.job(**second)
    assert other["changed"]
    assert other["job"]["result"] == {"4": 16}


def test_a_script_from_the_controller_needs_no_address_for_its_client(
    ansible: Ansible, cluster: Cluster, tmp_path: Path
) -> None:
    script = tmp_path / "total.py"
    script.write_text(
        "import sys\n"
        "from distributed import Client\n"
        "client = Client()\n"
        "print(client.scheduler.address, client.submit(sum, [int(word) for word in sys.argv[1:]]).result())\n"
    )
    options = {"name": "total", "script": str(script), "arguments": ["20", "22"]}
    ran = ansible.job(**options)
    assert ran["job"]["output"] == "{0} 42".format(cluster.plan["description"]["scheduler"])
    assert not ansible.job(**options)["changed"]
    script.write_text("print('another')\n")
    assert ansible.job(**options)["job"]["output"] == "another"


@pytest.mark.usefixtures("cluster")
def test_a_job_has_its_secrets_and_nobody_else_does(ansible: Ansible, tmp_path: Path, release: Path) -> None:
    script = tmp_path / "secret.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "from dask.distributed import Client\n"
        "client = Client()\n"
        "file = pathlib.Path(os.environ['CREDENTIALS_DIRECTORY'], 'TOKEN')\n"
        "print('same:', file.read_text() == os.environ['TOKEN'], len(os.environ['TOKEN']), sys.argv[1:], flush=True)\n"
        "while not os.path.exists(os.environ['RELEASE']): time.sleep(0.05)\n"
    )
    secrets = {"TOKEN": "hunter2-hunter2", "RELEASE": str(release)}
    job = {"name": "secret", "script": str(script), "arguments": ["mine alone"], "secrets": secrets}
    shown = [ansible.job("-vvvv", "--diff", "--check", **job), ansible.job("-vvvv", "--diff", state="submitted", **job)]
    directory = Path(shown[1]["job"]["directory"])
    wait_for(lambda: "same: True 15 ['mine alone']" in (directory / "output.log").read_text(), SECONDS, "the script")
    modes = {path.relative_to(directory): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}
    assert modes[Path("secrets/TOKEN")] == 0o400
    assert [path for path, mode in modes.items() if mode & 0o077] == []
    assert (stat.S_IMODE(directory.stat().st_mode), stat.S_IMODE(directory.parent.stat().st_mode)) == (0o700, 0o700)
    assert processes_that_mention(str(directory))
    for secret in (secrets["TOKEN"], "mine alone"):
        assert not processes_that_mention(secret)
    release.touch()
    shown.append(ansible.job("-vvvv", "--diff", **job))
    assert (shown[2]["changed"], shown[2]["job"]["state"]) == (False, "finished")
    assert shown[2]["job"]["secrets"] == ["RELEASE", "TOKEN"]
    texts = [path.read_text() for path in directory.rglob("*") if path.is_file()]
    assert not (directory / "secrets").exists()
    assert not [text for text in (*texts, *map(str, shown)) if secrets["TOKEN"] in text]
    # A new value is no other job, other names are.
    assert not ansible.job(**{**job, "secrets": {**secrets, "TOKEN": "another token"}})["changed"]
    assert ansible.job("--check", **{**job, "secrets": {"OTHER": "another token"}})["changed"]


def test_tasks_have_the_secrets_of_their_workers_and_no_other_process_shows_them(
    ansible: Ansible, cluster: Cluster, tmp_path: Path
) -> None:
    script = tmp_path / "look.py"
    script.write_text(
        "import json, os\n"
        "from distributed import Client\n"
        "client = Client()\n"
        "def look():\n"
        "    return {name: len(os.environ[name]) for name in ('EVERYBODYS', 'OF_ONE', 'MINE') if name in os.environ}\n"
        "workers = client.scheduler_info(n_workers=-1)['workers']\n"
        "told = {workers[address]['name']: each for address, each in client.run(look).items()}\n"
        "print(json.dumps({**told, 'scheduler': client.run_on_scheduler(look), 'job': look()}))\n"
    )
    ran = ansible.job(name="look", script=str(script), secrets={"MINE": "hunter2"})
    assert json.loads(ran["job"]["output"].splitlines()[-1]) == {
        "here-one-0": {"EVERYBODYS": 14, "OF_ONE": 14},
        "here-two-0": {"EVERYBODYS": 14},
        "scheduler": {"EVERYBODYS": 14},
        "job": {"MINE": 7},
    }
    for process in cluster.running.values():
        assert b"hunter2" not in Path("/proc", str(process.pid), "environ").read_bytes()
    assert "hunter2" not in json.dumps(cluster.plan)
    assert not processes_that_mention("hunter2")


@pytest.mark.usefixtures("cluster")
def test_a_secret_that_cannot_be_one_is_refused_before_a_job_starts(ansible: Ansible) -> None:
    failed = ansible.job(name="refused", function="lab:square_all", secrets={"NOT-A-NAME": "hunter2-hunter2"})
    assert "secrets.NOT-A-NAME: the name 'NOT-A-NAME' is refused" in failed["msg"]
    assert "hunter2" not in str(failed)
    assert ansible.record("refused") is None


@pytest.mark.usefixtures("cluster")
def test_a_script_that_ends_with_a_status_fails_with_its_last_lines(ansible: Ansible, tmp_path: Path) -> None:
    script = tmp_path / "strict.py"
    script.write_text("import sys\nprint('the data is not there')\nsys.exit(3)\n")
    outcome = ansible.job(name="strict", script=str(script))
    assert outcome["failed"]
    assert "ended with exit status 3. Its last lines:\nthe data is not there\n" in outcome["msg"]
    assert outcome["job"]["reason"] == "exit"


@pytest.mark.usefixtures("cluster")
def test_a_failed_job_fails_every_time_and_runs_again_only_when_asked_to(ansible: Ansible, tmp_path: Path) -> None:
    options = {"name": "unlucky", "function": "lab:fail", "arguments": [str(tmp_path / "runs")]}
    outcomes = [ansible.job(**options), ansible.job(**options), ansible.job(**options, rerun=True)]
    assert [outcome["changed"] for outcome in outcomes] == [True, False, True]
    assert all(outcome["failed"] and outcome["job"]["reason"] == "error" for outcome in outcomes)
    assert ["no luck, 1" in outcome["msg"] for outcome in outcomes] == [True, True, False]
    assert "ValueError: no luck, 2" in outcomes[2]["msg"]
    assert "Traceback" in outcomes[2]["msg"]


@pytest.mark.parametrize(
    ("function", "reason", "words"),
    [
        ("lab:no_such_function", "import", "module 'lab' has no attribute 'no_such_function'). Looked in:\n"),
        ("lab:return_a_set", "result", "returned what JSON cannot hold"),
    ],
)
def test_a_function_that_cannot_be_used_fails_with_the_reason(
    ansible: Ansible, cluster: Cluster, function: str, reason: str, words: str
) -> None:
    outcome = ansible.job(name=function.replace(":", "."), function=function)
    assert outcome["failed"]
    assert outcome["job"]["reason"] == reason
    assert words in outcome["msg"]
    assert reason != "import" or str(cluster.packages) in outcome["msg"]


@pytest.mark.usefixtures("cluster")
def test_a_job_that_runs_out_of_time_is_cancelled(ansible: Ansible, held: Held) -> None:
    outcome = ansible.job(**held.options, timeout=0.5)
    assert outcome["failed"]
    assert outcome["job"]["reason"] == "timeout"
    assert "after 0.5 s it was cancelled" in outcome["msg"]
    assert not processes_that_mention(outcome["job"]["directory"])


def test_a_scheduler_that_does_not_answer_in_the_time_given_fails_the_job(
    ansible: Ansible, silent_cluster: str
) -> None:
    options = {"cluster": silent_cluster, "name": "nobody", "function": "json:dumps", "arguments": [1]}
    outcome = ansible.job(**options, connect_timeout=0.5)
    assert outcome["failed"]
    assert outcome["job"]["reason"] == "scheduler"
    assert "within 0.5 s" in outcome["msg"]


@pytest.mark.usefixtures("cluster")
def test_a_job_can_be_submitted_followed_and_cancelled(ansible: Ansible, held: Held) -> None:
    submitted = ansible.job(**held.options, state="submitted")
    directory = submitted["job"]["directory"]
    assert submitted["changed"]
    held.worker()
    running = ansible.record(held.name)
    assert running is not None
    assert (running["state"], running["attempts"], running["ended"]) == ("running", 1, None)
    assert not ansible.job(**held.options, state="submitted")["changed"]

    other = ansible.job(**{**held.options, "function": "lab:square_all"}, state="submitted")
    assert other["failed"]
    assert "is running with another specification" in other["msg"]

    assert ansible.job("--check", name=held.name, state="cancelled")["changed"]
    predicted = ansible.job("--check", name=held.name, state="absent")
    assert predicted["changed"]
    assert processes_that_mention(directory)

    cancelled = ansible.job(name=held.name, state="cancelled")
    assert (cancelled["changed"], cancelled["job"]["state"]) == (True, "cancelled")
    assert not processes_that_mention(directory)
    assert os.path.exists(directory)
    assert not ansible.job(name=held.name, state="cancelled")["changed"]
    assert ansible.job(name=held.name, state="absent")["changed"]
    assert not os.path.exists(directory)
    assert not ansible.job(name=held.name, state="absent")["changed"]


@pytest.mark.usefixtures("cluster")
def test_a_job_whose_process_was_killed_has_failed_and_can_run_again(ansible: Ansible, held: Held) -> None:
    directory = ansible.job(**held.options, state="submitted")["job"]["directory"]
    held.worker()
    (runner,) = processes_that_mention(directory)
    os.kill(runner, signal.SIGKILL)

    lost = ansible.job(**held.options)
    assert lost["failed"]
    assert lost["job"]["reason"] == "lost"
    assert "ended without recording a result" in lost["msg"]

    held.release()
    assert ansible.job(**held.options, rerun=True)["job"]["result"] == "released"


def test_a_job_survives_its_worker(ansible: Ansible, cluster: Cluster, held: Held) -> None:
    ansible.job(**held.options, state="submitted")
    cluster.lose(held.worker())
    held.release()
    job = ansible.job(**held.options)["job"]
    assert (job["state"], job["result"], job["attempts"]) == ("finished", "released", 1)


def test_a_job_survives_its_scheduler(ansible: Ansible, cluster: Cluster, held: Held) -> None:
    ansible.job(**held.options, state="submitted")
    held.worker()
    cluster.kill("scheduler")
    # A worker ends when its task does; without a scheduler the task's result goes nowhere.
    held.release()
    cluster.wait_without_scheduler()
    cluster.start()
    job = ansible.job(**held.options)["job"]
    assert (job["state"], job["result"], job["attempts"]) == ("finished", "released", 2)
