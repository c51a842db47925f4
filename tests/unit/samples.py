# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings of a small cluster that the launch plan accepts, for tests that are about something else."""

from __future__ import annotations

import typing as t

GIB = 2**30


def host(**changes: t.Any) -> dict[str, t.Any]:
    """Returns what the plan knows about a host."""
    known = {
        "name": "alpha",
        "address": "10.0.0.1",
        "http_address": "127.0.0.1",
        "memory": 64 * GIB,
        "service_manager": "systemd",
        "root": True,
        "user": "ada",
        "user_directory": "/home/ada",
        "taken": {},
        "engine": "20.10.24+dfsg1",
        "libc": "2.36",
    }
    return {**known, **changes}


def settings(**changes: t.Any) -> dict[str, t.Any]:
    """Returns the settings of one host that runs the scheduler and two workers."""
    accepted = {
        "dask_cluster_name": "main",
        "dask_host": host(),
        "dask_scheduler_address": "10.0.0.1",
        "dask_runs_scheduler": True,
        "dask_runs_workers": True,
        "dask_worker_groups": [group()],
    }
    return {**accepted, **changes}


def group(**changes: t.Any) -> dict[str, t.Any]:
    """Returns one entry of dask_worker_groups."""
    return {"name": "cpu", "processes": 2, "memory": "8 GiB", **changes}
