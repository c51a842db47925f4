# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a chunk knows by itself: its node's address and scratch, its end, and what it lacks; jobs are run elsewhere."""

from __future__ import annotations

import json
import os
import stat
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _batch_side
from ansible_collections.flotilla.dask.plugins.module_utils._batch_side import Chunk, ChunkError, Head


def plan(directory: Path, **changes: t.Any) -> dict[str, t.Any]:
    made = {
        "cluster": "main",
        "kind": "cluster",
        "directory": str(directory),
        "chunks": 3,
        "workers": 6,
        "walltime": 3600,
        "leave_seconds": 80,
        "drain_seconds": 60,
        "last_seconds": 8,
        "local_directory": "",
        "dashboard": "loopback",
        "certificates": {},
        "system": "slurm",
        "interface": "",
        "application": None,
    }
    return {**made, **changes}


def head(directory: Path, job: str = "17", started: float | None = None, **changes: t.Any) -> Head:
    made = Head(plan(directory, **changes), job, time.time() if started is None else started, 0)
    Path(made.files, "here").mkdir(parents=True)
    return made


SAID = {"address": "tls://10.0.0.1:40001", "services": {"dashboard": 40002}}


def test_a_fast_network_comes_first_then_the_default_route() -> None:
    found = {"eth0": "10.0.0.1", "ib1": "10.1.0.2", "ib0": "10.1.0.1", "lo": "127.0.0.1"}
    assert _batch_side.choose_address(found, "10.0.0.1") == "10.1.0.1"
    assert _batch_side.choose_address({**found, "hsn0": "10.2.0.1"}, "10.0.0.1") == "10.2.0.1"
    assert _batch_side.choose_address({"eth0": "10.0.0.1", "eth1": "10.3.0.1"}, "10.3.0.1") == "10.3.0.1"
    assert _batch_side.choose_address({"eth1": "10.3.0.1", "lo": "127.0.0.1"}, "127.0.1.1") == "10.3.0.1"
    with pytest.raises(ChunkError, match="no network"):
        _batch_side.choose_address({"lo": "127.0.0.1"}, "")


def test_an_interface_that_a_node_lacks_is_refused_with_those_that_it_has() -> None:
    assert _batch_side.find_address("lo") == "127.0.0.1"
    with pytest.raises(ChunkError, match=r"interface: 'ib7' is refused.*lo \(127.0.0.1\)"):
        _batch_side.find_address("ib7")


def test_scratch_is_a_directory_of_the_chunks_own_where_the_node_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("FAST", str(tmp_path / "it's fast"))
    assert head(tmp_path / "one").make_scratch() == str(tmp_path / "dask-main-17-0")
    path = head(tmp_path / "two", local_directory="$FAST/here").make_scratch()
    assert path == str(tmp_path / "it's fast" / "here" / "dask-main-17-0")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    with pytest.raises(ChunkError, match="a variable that is not set"):
        head(tmp_path / "three", local_directory="$NO_SUCH_VARIABLE/x").make_scratch()
    (tmp_path / "file").write_text("")
    with pytest.raises(ChunkError, match="cannot be used"):
        head(tmp_path / "four", local_directory=str(tmp_path / "file")).make_scratch()


def test_the_end_is_the_earlier_of_what_was_asked_for_and_what_slurm_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert head(tmp_path / "one", started=1000).ends == 4600
    monkeypatch.setenv("SLURM_JOB_END_TIME", "4000")
    assert (head(tmp_path / "two", started=1000).ends, head(tmp_path / "three", started=1000).leaves) == (4000, 3920)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "9000")
    assert head(tmp_path / "four", started=1000).ends == 4600


def test_the_endpoint_is_the_jobs_own_and_only_its_own_goes_with_it(tmp_path: Path) -> None:
    first, second = head(tmp_path, "17"), head(tmp_path, "18")
    first.announce(SAID)
    link = tmp_path / "endpoint.json"
    assert json.loads(link.read_text())["job"] == "17"
    second.announce(SAID)
    first.withdraw()
    told = json.loads(link.read_text())
    assert (told["job"], told["address"], told["ready"]) == ("18", "tls://10.0.0.1:40001", 0)
    assert told["dashboard"] == "http://127.0.0.1:40002/status"
    second.withdraw()
    assert list(tmp_path.glob("endpoint*")) == []


def test_storage_that_is_not_shared_is_found_out_in_seconds(tmp_path: Path) -> None:
    late = head(tmp_path, started=time.time() - _batch_side.ARRIVAL_SECONDS - 1)
    for chunk in ("0", "2"):
        Path(late.files, "here", chunk).touch()
    Path(late.files, "job.log").write_text("node2: no such file\n")
    with pytest.raises(ChunkError, match=r"chunks 1 of 3 are not seen in .*all nodes share. node2: no such file"):
        late.check_all()
    Path(late.files, "here", "1").touch()
    late.check_all()
    head(tmp_path, "18").check_all()


def test_a_chunk_that_cannot_go_on_ends_all_with_its_words(tmp_path: Path) -> None:
    leader = head(tmp_path)
    Chunk(plan(tmp_path), "17", time.time(), 2).report("node n2: interface: 'ib0' is refused")
    with pytest.raises(ChunkError, match=r"chunk 2 cannot go on\. node n2: interface: 'ib0' is refused"):
        leader.check_all()


def test_everything_is_over_when_somebody_says_so_or_the_walltime_ends(tmp_path: Path) -> None:
    assert not head(tmp_path, "17").is_over()
    assert head(tmp_path, "18", started=time.time() - 3530).is_over()
    told = head(tmp_path, "19")
    Path(told.files, "leave").touch()
    assert told.is_over()
    assert told.ended_early() == 1
    with pytest.raises(ChunkError, match="the walltime ended while the cluster was starting"):
        head(tmp_path, "20", started=0).ended_early()


def test_whoever_is_to_join_needs_a_cluster_that_runs(tmp_path: Path) -> None:
    joining = Chunk(plan(tmp_path, kind="workers"), "18", time.time(), 0)
    with pytest.raises(ChunkError, match="cluster 'main' is not running"):
        joining.endpoint_file()
    head(tmp_path).announce(SAID)
    assert joining.endpoint_file() == str(tmp_path / "endpoint-17.json")
