# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finds the clusters that were deployed on this host (private to this collection)."""

from __future__ import annotations

import glob
import json
import os
import pathlib
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import DESCRIPTION, USER_HOME

Description = t.Dict[str, t.Any]
"""What ``launch_plan`` calls ``description``: a cluster's name, scheduler, python, jobs, workers and ports."""


def environment(cluster: Description) -> dict[str, str]:
    """Returns the environment variables with which this user's processes belong to the cluster.

    Whoever may not read the host's key is a client with a certificate of their own, which Dask finds in the user's own
    configuration; the playbook ``flotilla.dask.client`` makes one.
    """
    variables: dict[str, str] = dict(cluster["environment"])
    if cluster["identity"] and os.path.exists(cluster["identity"]) and not os.access(cluster["identity"], os.R_OK):
        del variables["DASK_CONFIG"]
    return variables


def user_directory() -> str:
    """Returns the home directory of whom this process acts as, from the environment where that says."""
    return str(pathlib.Path.home())


def find_clusters(home: str = "") -> list[Description]:
    """Returns the descriptions of all clusters on this host, in the order of their names.

    :param home: A directory that holds clusters' files instead of the default ones; empty for those.
    :raises DaskError: a description isn't readable.
    """
    places = [os.path.join("/etc/dask", "*", DESCRIPTION)]
    places += [
        os.path.join(base, "*", "etc", DESCRIPTION)
        for base in (home, os.path.join(user_directory(), USER_HOME))
        if base
    ]
    paths = {os.path.realpath(path) for place in places for path in glob.glob(place)}
    return sorted((_read(path) for path in paths), key=lambda found: str(found["cluster"]))


def find_cluster(name: str | None = None, home: str = "") -> Description:
    """Returns the description of the cluster called ``name``, or of the only one on this host.

    :raises DaskError: there is none, or there are several and none was named.
    """
    found = find_clusters(home)
    names = ", ".join(str(description["cluster"]) for description in found)
    if name:
        found = [description for description in found if description["cluster"] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise DaskError("This host has several clusters ({0}); say which with the option 'cluster'.".format(names))
    raise DaskError(
        "There is no Dask cluster{0} on this host{1}. Deploy one with the playbook flotilla.dask.site, run the task on "
        "a host of the cluster, or set the option 'home' where dask_home is set.".format(
            " called '{0}'".format(name) if name else "",
            " (but {0})".format(names) if names else "",
        )
    )


def _read(path: str) -> Description:
    try:
        with open(path, encoding="utf-8") as file:
            description: Description = json.load(file)
            return description
    except (OSError, ValueError) as error:
        raise DaskError(
            "{0} does not describe a cluster ({1}). Run flotilla.dask.site to write it again.".format(path, error)
        ) from error
