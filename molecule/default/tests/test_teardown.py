# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teardown ends jobs and leaves nothing on the hosts; the last test, as there is no cluster after it."""

from __future__ import annotations

import json
from pathlib import Path

from testbed import JOBS, REMOVE_ALL, Ansible, Hosts, tear_down, traces


def test_teardown_ends_jobs_and_keeps_records_authority_and_bundles_until_it_is_told_not_to(
    ansible: Ansible, hosts: Hosts, certificates_directory: Path
) -> None:
    endless = {"name": "endless", "function": "time:sleep", "arguments": [3600], "state": "submitted"}
    assert ansible.module("scheduler", "flotilla.dask.dask_job", **endless)["scheduler"]["job"]["state"] == "running"

    bundle = ansible.playbook("flotilla.dask.client", extra_vars={"dask_client_name": "alice"})
    assert bundle.ok, bundle.problems
    before = {path: path.read_bytes() for path in certificates_directory.rglob("*") if path.is_file()}

    removed = ansible.playbook("flotilla.dask.teardown")
    assert removed.ok, removed.problems
    after = {path: path.read_bytes() for path in certificates_directory.rglob("*") if path.is_file()}
    assert after == before
    scheduler = hosts["scheduler"]
    assert json.loads(scheduler.file(f"{JOBS}/endless/state.json").content)["state"] == "cancelled"
    files = "find /etc/dask /opt/dask /var/lib/dask -type f -not -path '/var/lib/dask/main/jobs/*' | sort"
    assert scheduler.run(files).stdout.split() == [
        "/etc/dask/.flotilla-dask",
        "/etc/dask/account",
        "/etc/dask/main/.flotilla-dask",
        "/etc/dask/main/created.json",
        "/var/lib/dask/.flotilla-dask",
    ]
    assert scheduler.run("pgrep --list-full -u dask").stdout == ""
    assert set(traces(hosts)) == {"scheduler"}
    assert ansible.playbook("flotilla.dask.teardown").changed == {}

    predicted = ansible.playbook("flotilla.dask.teardown", "--check", extra_vars=REMOVE_ALL)
    before_all = traces(hosts)
    tear_down(ansible, hosts)
    assert before_all != {}
    assert set(predicted.changed) == {
        "flotilla.dask.dask_certificates : Remove the authority and the clients' bundles from the controller",
        "flotilla.dask.dask_common : Remove files, directories, and the account with the last cluster of the host",
    }
    assert [path.name for path in certificates_directory.iterdir()] == ["issued.json"]
