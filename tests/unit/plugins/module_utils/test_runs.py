# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time changes a cluster; the record of a run that is dead holds nobody up."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _runs
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._runs import (
    SILENT_SECONDS,
    become_the_only_run,
    other_run,
    record_path,
)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the record of the cluster main is."""
    monkeypatch.setattr(_runs, "SYSTEM_DIRECTORY", str(tmp_path / _runs.USER_DIRECTORY))
    monkeypatch.setattr(_runs, "JUST_ENDED_SECONDS", 0.01)
    return Path(record_path("main", "/etc/dask/main", str(tmp_path)))


def take(path: Path, run: str, wait: float = 0) -> None:
    become_the_only_run(str(path), "main", run, f"{run} on laptop, process 7", wait)


def test_the_second_run_is_refused_with_who_holds_it_since_when_and_what_to_do(path: Path) -> None:
    take(path, "lena")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(DaskError) as caught:
        take(path, "jan")
    message = str(caught.value)
    since = json.loads(path.read_text())["since"]
    assert message.startswith("This run is refused: another run has been changing the cluster 'main'")
    assert f"since {since}: that of lena on laptop, process 7. Allowed: one run at a time." in message
    assert "set dask_run_wait_seconds, now 0, to" in message


def test_a_run_asks_for_it_again_as_often_as_it_likes(path: Path) -> None:
    take(path, "lena")
    take(path, "lena")
    assert other_run(str(path), "lena") is None
    assert (other_run(str(path), "jan") or {})["run"] == "lena"


def test_clusters_and_homes_do_not_hold_each_other_up(path: Path) -> None:
    take(path, "lena")
    others = [("other", "/etc/dask/other"), ("main", "/srv/lab/main/etc")]
    for cluster, configuration in others:
        other = record_path(cluster, configuration, str(path.parents[2]))
        assert other != str(path)
        become_the_only_run(other, cluster, "jan", "jan", 0)


def test_one_that_waits_goes_on_when_the_other_has_ended(path: Path) -> None:
    take(path, "lena")
    waiting = threading.Thread(target=take, args=(path, "jan", 30))
    waiting.start()
    assert (other_run(str(path), "jan") or {})["run"] == "lena"
    path.unlink()
    with contextlib.suppress(OSError):  # the one that waits was faster
        path.parent.rmdir()
    waiting.join()
    assert json.loads(path.read_text())["run"] == "jan"


@pytest.mark.parametrize("seconds", [-SILENT_SECONDS - 5, SILENT_SECONDS + 5], ids=["silent", "another clock"])
def test_the_record_of_a_run_that_gives_no_sign_of_life_is_taken_over(path: Path, seconds: float) -> None:
    take(path, "lena")
    os.utime(path, (time.time() + seconds,) * 2)
    take(path, "jan")
    assert json.loads(path.read_text())["run"] == "jan"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"holder": "x"}', "\udcff"])
def test_a_record_that_is_none_holds_nobody_up(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    take(path, "jan")
    assert json.loads(path.read_text())["run"] == "jan"


def test_a_record_that_is_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_text("precious")
    path.symlink_to(target)
    take(path, "jan")
    assert target.read_text() == "precious"
    assert not path.is_symlink()


def test_of_many_runs_at_the_same_moment_one_gets_it(path: Path) -> None:
    def attempt(number: int) -> bool:
        try:
            take(path, str(number))
        except DaskError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(attempt, range(16)))
    assert sum(got) == 1
    assert json.loads(path.read_text())["run"] == str(got.index(True))


@pytest.mark.usefixtures("as_root")
def test_a_directory_of_somebody_else_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.chown(path.parent, 12345, 12345)
    with pytest.raises(DaskError, match="belongs to account number 12345"):
        take(path, "jan")
