# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The only place where modules talk to Dask (private to this collection).

The Python of the host has no distributed, so a module first respawns itself with the environment's interpreter.
"""

from __future__ import annotations

import asyncio
import os
import typing as t

from ansible.module_utils.common.respawn import has_respawned, respawn_module

from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError


class UnreachableError(DaskError):
    """No scheduler answered in the time given."""


def enter_environment(cluster: Description) -> None:
    """Makes sure that this process can import the cluster's distributed with the cluster's configuration.

    :raises DaskError: the environment's interpreter is gone.
    """
    if has_respawned():
        return
    python = cluster["python"]
    if not os.access(python, os.X_OK):
        raise DaskError(
            "The environment of cluster '{0}' is gone: there is no {1}. Run flotilla.dask.site to install it.".format(
                cluster["cluster"], python
            )
        )
    os.environ.update(cluster["environment"])
    respawn_module(python)


def scheduler_state(address: str, timeout: float) -> dict[str, t.Any]:
    """Asks a scheduler for its identity and versions, without becoming one of its clients.

    :param address: Such as ``tcp://10.0.0.1:8786``.
    :param timeout: Seconds for the connection and again for the answers.
    :returns: What ``distributed.Scheduler.identity`` returns, for all workers, with ``versions`` added.
    :raises UnreachableError: nothing answers there, or not in time.
    """
    return asyncio.run(_ask(address, timeout))


async def _ask(address: str, timeout: float) -> dict[str, t.Any]:
    from distributed.comm import connect
    from distributed.core import send_recv

    try:
        comm = await asyncio.wait_for(connect(address, timeout=timeout), timeout)
        try:
            identity = await asyncio.wait_for(send_recv(comm, op="identity", n_workers=-1), timeout)
            versions = await asyncio.wait_for(send_recv(comm, op="versions"), timeout)
        finally:
            await comm.close()
    except (OSError, asyncio.TimeoutError) as error:
        raise UnreachableError(
            "No scheduler answers at {0} within {1:g} s ({2}).".format(
                address, timeout, str(error) or type(error).__name__
            )
        ) from error
    return {**identity, "versions": versions}
