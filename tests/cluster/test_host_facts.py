# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host says of itself in one execution."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.flotilla.dask.tests.cluster.conftest import Ansible


def test_a_host_says_which_paths_are_there_and_what_is_in_files(ansible: Ansible, tmp_path: Path) -> None:
    for name in ("one.json", "two.json", "other.txt"):
        (tmp_path / name).write_text(name + "\n")
    (tmp_path / "broken").symlink_to("nowhere")
    paths = [str(tmp_path / name) for name in ("one.json", "broken", "nothing")]
    patterns = [str(tmp_path / "*.json"), str(tmp_path / "nothing")]
    facts = ansible.module("dask_host_facts", paths=paths, texts=patterns)["ansible_facts"]["dask_host"]
    assert facts["paths"] == dict(zip(paths, (True, True, False)))
    assert facts["texts"] == {str(tmp_path / name): name + "\n" for name in ("one.json", "two.json")}
    assert ansible.module("dask_host_facts")["ansible_facts"]["dask_host"]["paths"] == {}


def test_a_run_that_is_refused_on_the_host_keeps_no_other_run_waiting(ansible: Ansible) -> None:
    options = {"exclusive": True, "scope": "user"}
    refused = ansible.module("dask_host_facts", **options, environment_path="/nowhere/at/all")
    assert refused["failed"]
    assert "/nowhere/at/all" in refused["msg"]
    following = ansible.module("dask_host_facts", **options, wait=30)
    assert not following["failed"], following["msg"]
