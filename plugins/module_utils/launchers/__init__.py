# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The launchers that keep processes running on a host (private to this collection)."""

from __future__ import annotations

import functools
import glob
import os

KINDS = ("worker", "scheduler")
"""What hosts run, in the order in which it stops."""

UNITS = "/etc/systemd/system"


def kinds_here(configuration: str, cluster: str, units: str = UNITS) -> list[str]:
    """Returns the kinds of processes that a cluster has on this host, whichever launcher runs them.

    By their definitions, which every launcher removes only after the process has stopped.

    :param configuration: The cluster's directory of configuration.
    :param units: Where systemd's units are.
    """
    below = functools.partial(os.path.join, configuration)
    places = {
        units: "dask-{0}-{{0}}*.service".format(cluster),
        below("supervisor.d"): "{0}*.conf",
        below("containers"): "{0}*.json",
        below("stack"): "{0}*.json",
    }
    return [
        kind
        for kind in KINDS
        if any(glob.glob(os.path.join(glob.escape(place), name.format(kind))) for place, name in places.items())
    ]
