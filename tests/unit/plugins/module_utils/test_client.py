# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a scheduler answers is asked for by the cluster's account, and is not believed before it was looked at."""

from __future__ import annotations

import json
import os
import pwd
import tempfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _accounts, _client
from ansible_collections.flotilla.dask.plugins.module_utils._client import (
    SchedulerWatch,
    UnreachableError,
    ask_scheduler,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._health import workers

STATE = {"difference": "", "environment": "", "started": 1.0, "versions": {}, "workers": {}}
NOBODY = "nobody"


@pytest.fixture
def place() -> t.Iterator[Path]:
    """A directory that other accounts can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def cluster_with(place: Path, script: str) -> dict[str, t.Any]:
    """A cluster whose environment's Python is a script: what speaks for a scheduler that tasks have changed."""
    python = place / "python"
    python.write_text("#!/bin/sh\n" + script)
    python.chmod(0o755)
    return {
        "cluster": "main",
        "user": NOBODY if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name,
        "scheduler": "tcp://127.0.0.1:8786",
        "python": str(python),
        "jobs": str(place / "var" / "jobs"),
        "environment": {"DASK_CONFIG": "/etc/dask"},
        "identity": "",
    }


def says(place: Path, answer: str) -> str:
    (place / "answer").write_text(answer)
    return f"while read -r question; do cat {place}/answer; echo; done\n"


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("asks", ["watch", "ask"])
def test_root_leaves_asking_to_the_account_and_gives_it_nothing_of_its_own(
    place: Path, asks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_ROOT", "secret")
    script = 'printf \'{"uid": %s, "groups": "%s", "leaked": "%s"}\\n\' $(id -u) "$(id -G)" "$TOKEN_OF_ROOT"\n'
    cluster = cluster_with(place, script)
    monkeypatch.setattr(_client, "_STATE", {})
    if asks == "watch":
        with SchedulerWatch(cluster, 1) as watch:
            said = watch.state()
    else:
        said = ask_scheduler(cluster, 1, {"op": "x"})
    nobody = pwd.getpwnam(NOBODY)
    assert said["uid"] == nobody.pw_uid
    assert "0" not in said["groups"].split()
    assert said["leaked"] == ""


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "7",
        "null",
        "nonsense",
        "[" * 100_000,
        *(json.dumps({**STATE, key: value}) for key in STATE for value in (None, [1])),
    ],
)
def test_what_is_no_schedulers_answer_is_an_error_in_words(place: Path, answer: str) -> None:
    with SchedulerWatch(cluster_with(place, says(place, answer)), 1) as watch, pytest.raises(
        DaskError, match="does not answer as a scheduler does"
    ):
        watch.state()


@pytest.mark.parametrize(
    "worker",
    [
        {},
        [],
        "x",
        {"name": "a", "status": "running", "nthreads": "many", "memory_limit": 1, "last_seen": 1},
        {"name": "a", "status": "running", "nthreads": 1, "memory_limit": "x", "last_seen": 1},
        {"name": "a", "status": "running", "nthreads": 1, "memory_limit": 1, "last_seen": "x"},
        {"name": "a", "status": "running", "nthreads": 1e400, "memory_limit": 1, "last_seen": 1},
        {"name": "a", "status": "running", "nthreads": 1, "memory_limit": 1, "last_seen": 1, "metrics": []},
    ],
)
def test_a_worker_that_a_task_has_made_up_is_an_error_in_words(worker: t.Any) -> None:
    with pytest.raises(DaskError, match="does not describe its workers as Dask does"):
        workers({"workers": {"tcp://x": worker}}, 2.0)


def test_an_answer_without_an_end_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_accounts, "LARGEST_ANSWER", 2**20)
    with SchedulerWatch(cluster_with(place, "exec yes | tr -d '\\n'\n"), 1) as watch, pytest.raises(
        DaskError, match="more than 1 MiB is refused"
    ):
        watch.state()


def test_an_answer_that_never_comes_is_no_hung_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "START_SECONDS", 0.2)
    with SchedulerWatch(cluster_with(place, "kill -STOP $$\n"), 0.01) as watch, pytest.raises(
        UnreachableError, match="not complete in time, or its process was stopped"
    ):
        watch.state()


def test_an_environment_that_does_not_start_is_named_with_the_last_that_it_said(place: Path) -> None:
    with SchedulerWatch(cluster_with(place, "echo broken >&2; exit 1\n"), 1) as watch, pytest.raises(
        DaskError, match=r"python cannot ask the scheduler \(broken\)"
    ):
        watch.state()
