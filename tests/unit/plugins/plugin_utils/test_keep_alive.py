# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run is identified in all of its processes, and its record goes with it however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.plugins.plugin_utils.runs import run_token

SECONDS = 20.0

# A run of Ansible as far as this matters: a process with a worker, which starts what keeps the record alive.
RUN = """
import multiprocessing, signal, subprocess, sys, time
import ansible.plugins.loader
from ansible_collections.flotilla.dask.plugins.plugin_utils import runs

runs.RENEW_SECONDS = 0.05
signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs the tests may have ignored

class Action:
    failures = 2 if sys.argv[2] == "fails to reach the host" else 0

    def _low_level_execute_command(self, command):
        if self.failures:
            self.failures -= 1
            return {"rc": 1}
        return {"rc": subprocess.run(["sh", "-c", command], check=False).returncode}

path, end = sys.argv[1:]
worker = multiprocessing.get_context("fork").Process(target=runs.keep_alive, args=(Action(), path, "token"))
worker.start()
worker.join()
print("works", flush=True)
if end in ("ends", "fails to reach the host"):
    sys.exit()
if end == "fails":
    sys.exit(2)
time.sleep(1000)
"""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "records" / "main.json"
    path.parent.mkdir()
    path.write_text('{"run": "token"}')
    os.utime(path, (0, 0))
    return path


def start(record: Path, end: str, root: Path) -> subprocess.Popen[str]:
    # In a group of its own, as a shell starts it.
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), str(record), end],
        env={**os.environ, "PYTHONPATH": str(root / "collections")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "works\n"
    return process


@pytest.mark.parametrize("end", ["ends", "fails", "fails to reach the host"])
def test_a_run_that_ends_leaves_no_record_and_nobody_waits_for_what_kept_it(record: Path, root: Path, end: str) -> None:
    with start(record, end, root) as process:
        assert process.communicate(timeout=SECONDS)[0] == ""  # its output has an end: nothing else has it open
    wait_for(lambda: not record.parent.exists(), SECONDS, "the record to go")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_with_its_whole_group_leaves_no_record(
    record: Path, root: Path, number: signal.Signals
) -> None:
    with start(record, "works on", root) as process:
        wait_for(lambda: record.stat().st_mtime > 1, SECONDS, "the record to be renewed")
        os.killpg(process.pid, number)
    wait_for(lambda: not record.parent.exists(), SECONDS, "the record to go")


def test_the_record_of_another_run_is_neither_renewed_nor_removed(record: Path, root: Path) -> None:
    with start(record, "works on", root) as process:
        wait_for(lambda: record.stat().st_mtime > 1, SECONDS, "the record to be renewed")
        record.with_suffix(".new").write_text('{"run": "another"}')
        os.utime(record.with_suffix(".new"), (0, 0))
        record.with_suffix(".new").replace(record)
        process.kill()
    keepers = ["pgrep", "--full", str(record)]
    wait_for(lambda: subprocess.run(keepers, check=False).returncode == 1, SECONDS, "what kept the record to end")
    assert (record.read_text(), record.stat().st_mtime) == ('{"run": "another"}', 0)


def test_a_worker_is_of_the_same_run_and_another_process_is_not() -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def tell() -> None:
        answers.put(run_token())

    worker = context.Process(target=tell)
    worker.start()
    assert answers.get() == run_token()
    worker.join()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, run_token().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() not in ("", run_token())
    for descriptor in (read, write):
        os.close(descriptor)
