# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teardown ends jobs and leaves nothing on the hosts; the last test, as there is no cluster after it."""

from __future__ import annotations

from pathlib import Path

from testbed import Ansible, Hosts, tear_down


def test_teardown_ends_jobs_and_keeps_authority_and_bundles_until_it_is_told_not_to(
    ansible: Ansible, hosts: Hosts, certificates_directory: Path
) -> None:
    endless = {"name": "endless", "function": "time:sleep", "arguments": [3600], "state": "submitted"}
    assert ansible.module("scheduler", "flotilla.dask.dask_job", **endless)["scheduler"]["job"]["state"] == "running"

    bundle = ansible.playbook("flotilla.dask.client", extra_vars={"dask_client_name": "alice"})
    assert bundle.ok, bundle.problems
    before = {path: path.read_bytes() for path in certificates_directory.rglob("*") if path.is_file()}

    tear_down(ansible, hosts)
    after = {path: path.read_bytes() for path in certificates_directory.rglob("*") if path.is_file()}
    assert after == before

    predicted, run = (
        ansible.playbook("flotilla.dask.teardown", *options, extra_vars={"dask_remove": "all"})
        for options in (["--check"], [])
    )
    assert run.ok, run.problems
    assert predicted.changed == run.changed
    assert run.roles == {"dask_certificates"}
    assert [path.name for path in certificates_directory.iterdir()] == ["issued.json"]
    assert ansible.playbook("flotilla.dask.teardown", extra_vars={"dask_remove": "all"}).changed == {}
