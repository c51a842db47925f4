# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teardown ends jobs and leaves nothing; the last test, as there is no cluster after it."""

from __future__ import annotations

from testbed import Ansible, Hosts, tear_down


def test_teardown_ends_jobs_and_removes_everything(ansible: Ansible, hosts: Hosts) -> None:
    endless = {"name": "endless", "function": "time:sleep", "arguments": [3600], "state": "submitted"}
    assert ansible.module("scheduler", "flotilla.dask.dask_job", **endless)["scheduler"]["job"]["state"] == "running"

    tear_down(ansible, hosts)
