# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pipelines: stages that each run to completion, one after the other, on a cluster in a swarm.

Pure code: what a user may say about them, in which order stages run, and what identifies each. Private to this
collection.
"""

from __future__ import annotations

import posixpath
import re
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import Reader, Volume
from ansible_collections.flotilla.dask.plugins.module_utils.launch.swarm import LONGEST_SERVICE

LONGEST_STAGE = 366 * 24 * 3600
_USER = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")
_NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
_KEYS = (
    "name",
    "image",
    "command",
    "environment",
    "mounts",
    "scheduler_variables",
    "host",
    "user",
    "results",
    "after",
    "timeout",
)


@dataclass(frozen=True)
class Stage:
    """One stage.

    ``image`` and ``user``: empty for the cluster's. ``host``: the inventory name of the host that it runs on.
    ``scheduler_variables``: names of environment variables that get the scheduler's address. ``results``: path in the
    container, below one of the ``mounts``; empty where there are none. ``after``: the stages that have to be done
    before. ``timeout``: seconds, 0 for no limit.
    """

    name: str
    image: str
    command: tuple[str, ...]
    environment: t.Mapping[str, str]
    mounts: tuple[Volume, ...]
    scheduler_variables: tuple[str, ...]
    host: str
    user: str
    results: str
    after: tuple[str, ...]
    timeout: int

    @property
    def results_on_host(self) -> str:
        """Where the results are on the host."""
        for mount in self.mounts:
            if _is_below(self.results, mount.path):
                return posixpath.normpath(posixpath.join(mount.source, posixpath.relpath(self.results, mount.path)))
        return ""

    def identity(self) -> dict[str, t.Any]:
        """What makes a stage the one that was done already."""
        identity = asdict(self)
        del identity["timeout"], identity["after"]
        return identity


@dataclass(frozen=True)
class Pipeline:
    """Stages in an order in which each comes after those that it needs, and the names of those that are to run.

    ``digests``: what identifies each stage with all that it builds upon.
    """

    name: str
    stages: tuple[Stage, ...]
    to_run: tuple[str, ...]
    digests: t.Mapping[str, str] = field(default_factory=dict)


def read_pipeline(settings: t.Mapping[str, t.Any]) -> Pipeline:
    """Reads a pipeline, or refuses it.

    :param settings: ``cluster``: its name; ``name``, ``stages`` and ``stages_to_run`` (none for all) as the user wrote
        them; ``host``: where stages run that don't say; ``hosts``: the names of those that may be said; ``image``: that
        of the cluster.
    :raises SettingsError: with every value that was refused.
    """
    reader = Reader(settings)
    name = _name(reader, "name", settings.get("name"))
    entries = reader.sequence("stages", settings.get("stages"))
    if not entries and not reader.problems:
        reader.refuse("stages", settings.get("stages"), "at least one stage")
    stages: list[Stage] = []
    for index, entry in enumerate(entries):
        variable = "stages[{0}]".format(index)
        stage = _read_stage(reader, variable, entry, stages[-1:], settings)
        if any(stage.name == other.name for other in stages):
            reader.refuse(variable + ".name", stage.name, "a name that no other stage of the pipeline has")
        if len(service_name(settings["cluster"], name, stage.name)) > LONGEST_SERVICE:
            reader.refuse(
                variable + ".name",
                stage.name,
                "a shorter one, as a swarm allows services {0} characters, with the names of cluster and "
                "pipeline".format(LONGEST_SERVICE),
            )
        stages.append(stage)
    names = [stage.name for stage in stages]
    for index, stage in enumerate(stages):
        for other in stage.after:
            if other not in names:
                reader.refuse("stages[{0}].after".format(index), other, "names of stages: " + ", ".join(names))
    wanted = reader.sequence("stages_to_run", settings.get("stages_to_run"))
    for index, other in enumerate(wanted):
        if other not in names:
            reader.refuse("stages_to_run[{0}]".format(index), other, "names of stages: " + ", ".join(names))
    ordered = [] if reader.problems else _in_order(reader, stages)
    reader.finish()
    digests: dict[str, str] = {}
    for stage in ordered:
        image = stage.image or str(settings.get("image", ""))
        before = [digests[other] for other in stage.after]
        digests[stage.name] = digest({**stage.identity(), "image": image, "after": before})
    to_run = [stage.name for stage in ordered if not wanted or stage.name in wanted]
    return Pipeline(name=name, stages=tuple(ordered), to_run=tuple(to_run), digests=digests)


def pipeline_plan(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns what has to be on which host before a pipeline runs, and what is there afterwards.

    :param settings: As for ``read_pipeline``.
    :return: ``name``; ``mounts``: each ``host`` and ``path`` with the ``stage``; ``results``: the same of the
        stages that are to run.
    :raises SettingsError: with every value that was refused.
    """
    pipeline = read_pipeline(settings)
    stages = [stage for stage in pipeline.stages if stage.name in pipeline.to_run]
    return {
        "name": pipeline.name,
        "mounts": [
            {"stage": stage.name, "host": stage.host, "path": mount.source}
            for stage in stages
            for mount in stage.mounts
        ],
        "results": [
            {"stage": stage.name, "host": stage.host, "path": stage.results_on_host}
            for stage in stages
            if stage.results
        ],
    }


def service_name(cluster: str, pipeline: str, stage: str) -> str:
    """Returns what the service of a stage is called in the swarm; with an empty stage, how those of all begin."""
    return "dask-{0}_stage-{1}--{2}".format(cluster, pipeline, stage)


def _read_stage(
    reader: Reader, variable: str, value: t.Any, previous: t.Sequence[Stage], settings: t.Mapping[str, t.Any]
) -> Stage:
    entry = reader.mapping(variable, value)
    for key in entry:
        if key == "secrets":
            reader.problems.append(
                "{0}.secrets is refused, as stages have no secrets. Allowed: a file of the stage's host, among its "
                "mounts, that only the user of the stage can read.".format(variable)
            )
        elif key not in _KEYS:
            reader.refuse(variable, key, "the keys " + ", ".join(_KEYS))
    command = reader.sequence(variable + ".command", entry.get("command"))
    if not command or not all(isinstance(word, (str, int, float)) and not isinstance(word, bool) for word in command):
        reader.refuse(
            variable + ".command", entry.get("command"), "a list of words, such as [python, -m, imaging.image]"
        )
    variables = reader.environment(
        variable + ".scheduler_variables",
        dict.fromkeys(reader.sequence(variable + ".scheduler_variables", entry.get("scheduler_variables")), ""),
    )
    mounts = reader.volumes(variable + ".mounts", entry.get("mounts"))
    results = reader.path(variable + ".results", entry.get("results"))
    if results and not any(_is_below(results, mount.path) for mount in mounts):
        reader.refuse(
            variable + ".results",
            results,
            "a path in the container below one of its mounts ({0})".format(
                ", ".join(mount.path for mount in mounts) or "none"
            ),
        )
    user = str(entry.get("user") or "")
    if user and not _USER.fullmatch(user):
        reader.refuse(variable + ".user", user, "numbers of a user and a group, such as '1000:1000'")
    host = str(entry.get("host") or settings.get("host", ""))
    if host not in settings.get("hosts", [host]):
        reader.refuse(variable + ".host", host, "hosts of the cluster: " + ", ".join(settings["hosts"]))
    after = entry.get("after")
    return Stage(
        name=_name(reader, variable + ".name", entry.get("name")),
        image=reader.image(variable + ".image", entry.get("image")),
        command=tuple(map(str, command)),
        environment=reader.environment(variable + ".environment", entry.get("environment")),
        mounts=mounts,
        scheduler_variables=tuple(variables),
        host=host,
        user=user,
        results=results,
        after=tuple(stage.name for stage in previous)
        if after is None
        else tuple(map(str, reader.sequence(variable + ".after", after))),
        timeout=reader.integer(
            variable + ".timeout", entry.get("timeout", 0), 0, LONGEST_STAGE, "a number of seconds, or 0 for no limit,"
        ),
    )


def _name(reader: Reader, variable: str, value: t.Any) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return str(value)
    reader.refuse(variable, value, "a name of lower-case letters and digits, with single '-' and '_' between them")
    return ""


def _in_order(reader: Reader, stages: t.Sequence[Stage]) -> list[Stage]:
    """Each stage after those that it needs, and else as they were written."""
    ordered: list[Stage] = []
    left = list(stages)
    while left:
        done = {stage.name for stage in ordered}
        ready = [stage for stage in left if set(stage.after) <= done]
        if not ready:
            names = [stage.name for stage in left]
            reader.refuse("stages[].after", ", ".join(names), "stages that don't wait for each other in a circle")
            return []
        ordered.append(ready[0])
        left.remove(ready[0])
    return ordered


def _is_below(path: str, directory: str) -> bool:
    return bool(path) and (path == directory or path.startswith(directory.rstrip("/") + "/"))
