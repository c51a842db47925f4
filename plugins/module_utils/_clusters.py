# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finds the clusters that were deployed on this host (private to this collection)."""

from __future__ import annotations

import glob
import json
import os
import pathlib
import socket
import time
import typing as t
import urllib.parse

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import find_account
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_owned_text, read_text
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import CLIENT_PRELOAD, DESCRIPTION, USER_HOME

ANSWER_SECONDS = 5.0
"""How long a scheduler may take to accept a connection."""

Description = t.Dict[str, t.Any]
"""What ``launch_plan`` calls ``description``: a cluster's name, scheduler, python, jobs, workers and ports."""


def environment(cluster: Description) -> dict[str, str]:
    """Returns the environment variables with which this user's processes belong to the cluster.

    Whoever may not read the host's key is a client with a certificate of their own, which Dask finds in the user's own
    configuration; the playbook ``flotilla.dask.client`` makes one.
    """
    variables: dict[str, str] = dict(cluster["environment"])
    if cluster["identity"] and os.path.exists(cluster["identity"]) and not os.access(cluster["identity"], os.R_OK):
        for name in ("DASK_CONFIG", CLIENT_PRELOAD):
            variables.pop(name, None)
    return variables


def user_directory() -> str:
    """Returns the home directory of whom this process acts as, from the environment where that says."""
    return str(pathlib.Path.home())


def _found(home: str) -> tuple[list[Description], list[str]]:
    """The descriptions on this host, each of a cluster or of what clusters inside jobs are made from.

    :returns: Them, and in words what is wrong with the others.
    """
    places = [os.path.join("/etc/dask", "*", DESCRIPTION)]
    places += [
        os.path.join(base, "*", "etc", DESCRIPTION)
        for base in (home, os.path.join(user_directory(), USER_HOME))
        if base
    ]
    return _read_all({os.path.realpath(path): path for place in places for path in glob.glob(place)}.values())


def find_clusters(home: str = "") -> tuple[list[Description], list[str]]:
    """Returns the descriptions of all clusters on this host by their names, and in words what is wrong with others.

    :param home: A directory that holds clusters' files instead of the default ones; empty for those.
    """
    found, problems = _found(home)
    clusters = [each for each in found if "batch" not in each]
    for description in found:
        if "batch" in description:
            inside, more = _inside_jobs(description)
            clusters += inside
            problems += more
    return sorted(clusters, key=lambda each: str(each["cluster"])), problems


def find_cluster(name: str | None = None, home: str = "", alive: bool = True) -> Description:
    """Returns the description of the cluster called ``name``, or of the only one on this host.

    :param alive: Whether one inside a batch job has to be running; else its ``scheduler`` may be empty.
    :raises DaskError: there is none, or there are several and none was named, or it has to run and doesn't.
    """
    found = _choose(*find_clusters(home), name)
    return running(found) if alive else found


def find_site(name: str | None = None, home: str = "") -> Description:
    """Returns the description of what this host has for clusters inside batch jobs.

    :raises DaskError: there is none, or there are several and none was named.
    """
    found, problems = _found(home)
    return _choose([each for each in found if "batch" in each], problems, name)


def running(cluster: Description) -> Description:
    """Returns the description with what is only known while the cluster runs, where that is inside a batch job.

    :raises DaskError: it isn't running.
    """
    if "endpoint" not in cluster:
        return cluster
    advice = "Start it with the module dask_batch_cluster or the playbook flotilla.dask.batch."
    endpoint = read_endpoint(cluster["endpoint"])
    if endpoint is None:
        raise DaskError("Batch cluster '{0}' is not running. {1}".format(cluster["cluster"], advice))
    place = urllib.parse.urlsplit(endpoint["address"])
    problem = "the walltime of job {0} is over".format(endpoint["job"]) if time.time() > endpoint["ends"] else ""
    if not problem:
        try:
            socket.create_connection((place.hostname or "", place.port or 0), ANSWER_SECONDS).close()
        except OSError as error:
            problem = "nothing answers at {0} ({1}), so job {2} was killed, or this host cannot reach its nodes".format(
                endpoint["address"], error.strerror or error, endpoint["job"]
            )
    if problem:
        raise DaskError(
            "Batch cluster '{0}' is not running: {1}. {2} is left over from it. {3}".format(
                cluster["cluster"], problem, cluster["endpoint"], advice
            )
        )
    # By the job's own file, as the cluster's may lead to another job's later.
    runs = {key: endpoint[key] for key in ("job", "leaves", "ends")}
    runs["endpoint"] = os.path.realpath(cluster["endpoint"])
    return {**cluster, "scheduler": endpoint["address"], "dashboard": endpoint["dashboard"], "running": runs}


def read_description(path: str) -> Description:
    """Returns what a file says of a cluster. Root believes a file of its own, and what a user says of that user's own.

    :raises DaskError: it isn't one that the collection wrote.
    """
    try:
        found = read_owned_text(path)
        description = json.loads(found[0]) if found else None
        if not found or not isinstance(description, dict) or not isinstance(description.get("cluster"), str):
            raise ValueError("it has no cluster")
    except (OSError, ValueError, RecursionError, DaskError) as error:
        raise DaskError(
            "{0} does not describe a cluster ({1}). Remove it, and run flotilla.dask.site, which writes it.".format(
                path, error
            )
        ) from error
    owner = found[1].st_uid
    if os.geteuid() == 0 and owner != 0:
        account = find_account(str(description.get("user")))
        if account is None or account.uid != owner:
            raise DaskError(
                "{0} is refused: it belongs to account number {1}, which may describe clusters of its own alone. "
                "Remove it, and run flotilla.dask.site, which writes it.".format(path, owner)
            )
    return t.cast("Description", description)


def read_endpoint(path: str) -> dict[str, t.Any] | None:
    """Returns what the job of a cluster says of it, or None where no job does."""
    try:
        endpoint = json.loads(read_text(path) or "null")
    except (OSError, ValueError, RecursionError, DaskError):
        return None
    return endpoint if isinstance(endpoint, dict) else None


def _read_all(paths: t.Iterable[str]) -> tuple[list[Description], list[str]]:
    found, problems = [], []
    for path in sorted(paths):
        try:
            found.append(read_description(path))
        except DaskError as error:
            problems.append(str(error))
    return found, problems


def _choose(found: list[Description], problems: list[str], name: str | None) -> Description:
    names = ", ".join(str(description["cluster"]) for description in found)
    if name:
        found = [description for description in found if description["cluster"] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise DaskError("This host has several clusters ({0}); say which with the option 'cluster'.".format(names))
    if problems:
        raise DaskError("\n".join(problems))
    raise DaskError(
        "There is no Dask cluster{0} on this host{1}. Deploy one with the playbook flotilla.dask.site, or in a batch "
        "job with flotilla.dask.batch; run the task on a host of the cluster; or set the option 'home' where dask_home "
        "is set.".format(
            " called '{0}'".format(name) if name else "",
            " (but {0})".format(names) if names else "",
        )
    )


def _inside_jobs(description: Description) -> tuple[list[Description], list[str]]:
    """The clusters inside batch jobs that a description stands for, and what is wrong with others."""
    pattern = os.path.join(glob.escape(description["batch"]["directory"]), "*", DESCRIPTION)
    return _read_all(glob.glob(pattern))
