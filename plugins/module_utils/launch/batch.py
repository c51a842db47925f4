# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster inside a batch job: what is asked of the queue, and what each of the job's chunks does.

A chunk is what PBS calls so, and one task of Slurm: some processors and their memory on one node. Pure; private to this
collection.
"""

from __future__ import annotations

import posixpath
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import DIRECTORY, NAMES
from ansible_collections.flotilla.dask.plugins.module_utils._wait import LONGEST_DRAIN
from ansible_collections.flotilla.dask.plugins.module_utils.launch import memory
from ansible_collections.flotilla.dask.plugins.module_utils.launch.processes import (
    IN_PROCESS,
    dask_command,
    process_environment,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch.quoting import shell_word
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import LOOPBACK, Reader

SYSTEMS = ("slurm", "pbs")
VARIANTS = ("processes", "threads")
DASHBOARDS = ("loopback", "interface")
KINDS = ("cluster", "workers")
"""What a job is: a cluster with its scheduler, or more workers of one that runs."""

PLACES = ("free", "scatter", "pack")
LEAVE_MARGIN = 20
"""Seconds between the end of the workers' drain and that of the walltime: for the scheduler, which goes last."""
LAST_MARGIN = 8
"""Seconds before the end of the walltime at which also the scheduler stops, whatever the workers do."""
LEAST_WORK = 30
"""Seconds of a walltime that have to be left for work."""
MIB = 2**20

THREAD_VARIABLES = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Libraries that would start a thread for every processor in each of Dask's own threads."""

_WALLTIME = re.compile(r"((?P<days>\d{1,3})-)?(?P<hours>\d{1,4}):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]*")
_FEATURES = re.compile(r"[A-Za-z0-9_.,&|*()\[\]!+-]+")
_RESOURCES = re.compile(r"[A-Za-z][A-Za-z0-9_]*=[A-Za-z0-9_./+-]+(:[A-Za-z][A-Za-z0-9_]*=[A-Za-z0-9_./+-]+)*")
_PLACE = re.compile(r"(?P<arrangement>free|scatter|vscatter|pack)(?P<more>(:[A-Za-z][A-Za-z0-9_=.-]*)*)")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,31}")
_LINE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_TEXT_PATH = re.compile(r"/[^\x00-\x1f\x7f]*")
_LOCAL = re.compile(r"[/$][^\x00-\x1f\x7f]*")

_OURS = {
    "slurm": re.compile(
        r"(-[ntcNoeJpADCk]\b|--(ntasks|time|cpus-per-task|nodes|mem|mem-per-cpu|output|error|job-name|partition|account"
        r"|chdir|constraint|array|ntasks-per-node|no-requeue|requeue)\b)"
    ),
    "pbs": re.compile(r"(-[qANjorSJ]\b|-l *(select|walltime|place|nodes|ncpus|mem)\b)"),
}
"""Directives that follow from other options."""
_OPTION_LINE = {"slurm": "#SBATCH ", "pbs": "#PBS "}


@dataclass(frozen=True)
class Batch:
    """What a user may say about a cluster inside a batch job; see the module ``dask_batch_cluster`` for each of them.

    ``memory``: bytes of a chunk, ``usable`` those for its workers. ``walltime``: seconds.
    """

    name: str
    system: str
    chunks: int
    cpus: int
    memory: int
    usable: int
    walltime: int
    queue: str
    account: str
    place: str
    constraint: str
    directives: tuple[str, ...]
    variant: str
    scheduler_alone: bool
    interface: str
    dashboard: str
    local_directory: str
    setup: tuple[str, ...]
    environment: t.Mapping[str, str]
    idle_timeout: int
    drain_seconds: int

    @property
    def processes(self) -> int:
        """Worker processes of a chunk."""
        return self.cpus if self.variant == "processes" else 1

    @property
    def threads(self) -> int:
        """Threads of a worker process."""
        return 1 if self.variant == "processes" else self.cpus

    @property
    def memory_limit(self) -> int:
        """Bytes of a worker process."""
        return memory.share(self.usable, self.processes)

    @property
    def leave_seconds(self) -> int:
        """Seconds before the end of the walltime at which workers begin to leave."""
        return self.drain_seconds + LEAVE_MARGIN


def batch_plan(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns what is submitted, and what the job's chunks do.

    :param settings: The options of the module ``dask_batch_cluster`` by their names, as ``secrets`` their names alone;
        ``kind``: one of ``KINDS``; ``site``: what the login host has, as the module tells it: ``system``, ``directory``
        (of all batch clusters), ``python``, ``environment`` (variables), ``tls``.
    :raises SettingsError: with every value that was refused.
    """
    reader = Reader(settings)
    site = settings["site"]
    kind = str(settings.get("kind", "cluster"))
    batch = read_batch(reader, str(site["system"]))
    application = _read_application(reader)
    directory = _read_directory(reader, str(site["directory"]))
    reader.finish()

    directory = posixpath.join(directory, batch.name)
    specification = _specification(settings, application)
    content = digest([directory, specification, kind, site["python"], dict(site["environment"])])
    stem = posixpath.join(directory, "scripts", content)
    # Of its own, so that a job can be found that was submitted by a module which was killed then.
    job_name = "dask-{0}{1}-{2}".format(batch.name, "" if kind == "cluster" else "-more", content)
    variables = process_environment(
        {**site["environment"], "FLOTILLA_DRAIN_SECONDS": str(batch.drain_seconds)},
        {**dict.fromkeys(THREAD_VARIABLES, "1"), **batch.environment},
    )
    # Values are in files alone, which the job's processes read when they start.
    secrets = {"names": list(settings.get("secrets") or []), "directory": posixpath.join(directory, "secrets")}
    told = {DIRECTORY: secrets["directory"], NAMES: " ".join(secrets["names"])} if secrets["names"] else {}
    return {
        "name": batch.name,
        "kind": kind,
        "directory": directory,
        "job_name": job_name,
        "digest": digest(specification),
        "stem": stem,
        "words": {
            "directory": shell_word(directory),
            "launcher": shell_word(stem + ".sh"),
            "code": shell_word(stem + ".py"),
            "plan": shell_word(stem + ".json"),
            "python": shell_word(str(site["python"])),
        },
        "directives": [_OPTION_LINE[batch.system] + words for words in directives(batch, job_name)],
        "start": start_lines(batch),
        "setup": list(batch.setup),
        "exports": [
            "export {0}={1}".format(name, shell_word(str(value))) for name, value in {**variables, **told}.items()
        ],
        "secrets": secrets,
        "workers": promised(batch),
        "application": bool(application),
        "job": _job(batch, kind, directory, site, application, stem),
        "jobqueue": {"jobqueue": {batch.system: jobqueue(batch, site, variables)}},
    }


def read_batch(reader: Reader, system: str) -> Batch:
    """Reads the settings; problems stay with ``reader``.

    :param system: The one that the login host has, or that was named.
    """
    get = reader.settings.get
    system = reader.choice("system", system, SYSTEMS)
    cpus = reader.integer("cpus", get("cpus", 1), 1, 4096, "a number of processors")
    place = _read_place(reader, system, get("place"))
    variant = reader.choice("variant", get("variant", "processes"), VARIANTS)
    size = _read_memory(reader, get("memory"), cpus if system == "slurm" and not _scattered(place) else 1)
    drain = reader.integer("drain_seconds", get("drain_seconds", 60), 0, LONGEST_DRAIN, "a number of seconds")
    return Batch(
        name=reader.identifier("name", get("name")),
        system=system,
        chunks=reader.integer("chunks", get("chunks", 1), 1, 100000, "a number of chunks"),
        cpus=cpus,
        memory=size,
        usable=_read_usable(reader, size, get("memory_reserve", 0.1), cpus if variant == "processes" else 1),
        walltime=_read_walltime(reader, system, get("walltime"), drain + LEAVE_MARGIN + LEAST_WORK),
        queue=_read_word(reader, "queue", get("queue"), _WORD, "the name of a queue or partition"),
        account=_read_word(reader, "account", get("account"), _WORD, "the name of an account or project"),
        place=place,
        constraint=_read_constraint(reader, system, get("constraint")),
        directives=_read_directives(reader, system),
        variant=variant,
        scheduler_alone=_read_alone(reader),
        interface=_read_word(
            reader, "interface", get("interface"), _INTERFACE, "the name of a network interface such as ib0"
        ),
        dashboard=reader.choice("dashboard", get("dashboard", "loopback"), DASHBOARDS),
        local_directory=_read_word(
            reader,
            "local_directory",
            get("local_directory"),
            _LOCAL,
            "an absolute path on the nodes, in which variables such as $TMPDIR are those of the node",
        ),
        setup=_read_setup(reader),
        environment=reader.environment("environment", get("environment")),
        idle_timeout=reader.integer("idle_timeout", get("idle_timeout", 0), 0, 10**8, "a number of seconds"),
        drain_seconds=drain,
    )


def parse_walltime(text: str) -> int | None:
    """Returns the seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``, or None for anything else."""
    found = _WALLTIME.fullmatch(text)
    if not found:
        return None
    hours = int(found["days"] or 0) * 24 + int(found["hours"])
    return hours * 3600 + int(found["minutes"]) * 60 + int(found["seconds"])


def clock(seconds: int) -> str:
    """Returns seconds as ``HH:MM:SS``, which every queue takes."""
    return "{0:02d}:{1:02d}:{2:02d}".format(seconds // 3600, seconds // 60 % 60, seconds % 60)


def directives(batch: Batch, name: str) -> list[str]:
    """Returns what is asked of the queue, as its directives have it. What they name are words: nothing is quoted."""
    words = _slurm(batch, name) if batch.system == "slurm" else _pbs(batch, name)
    return words + list(batch.directives)


def _slurm(batch: Batch, name: str) -> list[str]:
    size = batch.memory // MIB
    words = ["--job-name=" + name, "--ntasks={0}".format(batch.chunks), "--cpus-per-task={0}".format(batch.cpus)]
    arrangement, _colon, more = batch.place.partition(":")
    if _scattered(batch.place):
        words += ["--nodes={0}".format(batch.chunks), "--ntasks-per-node=1", "--mem={0}M".format(size)]
    else:
        words += ["--nodes=1"] if arrangement == "pack" else []
        words.append("--mem-per-cpu={0}M".format(size // batch.cpus))
    if more:
        words.append("--exclusive")
    words.append("--time=" + clock(batch.walltime))
    for option, value in (("partition", batch.queue), ("account", batch.account), ("constraint", batch.constraint)):
        if value:
            words.append("--{0}={1}".format(option, value))
    # A node that fails takes its workers along and not the job; and a job that starts again would find no client.
    return [*words, "--no-kill", "--no-requeue", "--output=queue-%j.log"]


def _pbs(batch: Batch, name: str) -> list[str]:
    chunk = "{0}:ncpus={1}:mpiprocs=1:mem={2}mb".format(batch.chunks, batch.cpus, batch.memory // MIB)
    chunk += ":" + batch.constraint if batch.constraint else ""
    words = ["-N " + name, "-l select=" + chunk]
    words += ["-l place=" + batch.place] if batch.place else []
    words.append("-l walltime=" + clock(batch.walltime))
    words += ["-q " + batch.queue] if batch.queue else []
    words += ["-A " + batch.account] if batch.account else []
    return [*words, "-S /bin/bash", "-j oe", "-r n"]


def start_lines(batch: Batch) -> list[str]:
    """Returns the lines of shell that run the launcher on every chunk, with the chunk's number, in the background."""
    # A login shell, as in others sites don't have 'module'.
    launcher = '/bin/bash -l "$launcher" "$job" "$started"'
    if batch.system == "slurm":
        # Of itself a step doesn't take a job's processors per task, ends when one of its tasks does, or with a node.
        return [
            "srun --ntasks={0} --cpus-per-task={1} --no-kill --kill-on-bad-exit=0 --wait=0 --mpi=none --input=none "
            "--export=ALL {2} &".format(batch.chunks, batch.cpus, launcher)
        ]
    return [
        'PATH=$PATH:"${PBS_EXEC:-/opt/pbs}/bin"',
        "for ((chunk = 0; chunk < {0}; chunk++)); do".format(batch.chunks),
        '  pbsdsh -n "$chunk" -- {0} "$chunk" &'.format(launcher),
        "done",
    ]


def promised(batch: Batch) -> list[dict[str, t.Any]]:
    """Returns name and chunk of every worker process, as ``promised_workers`` does for other clusters."""
    first = 1 if batch.scheduler_alone else 0
    return [
        {"name": name, "host": chunk_name(chunk), "group": "chunk", "dashboard": 0}
        for chunk in range(first, batch.chunks)
        for name in worker_names(chunk_name(chunk), batch.processes)
    ]


def chunk_name(chunk: int) -> str:
    return "chunk-{0}".format(chunk)


def worker_names(name: str, processes: int) -> list[str]:
    """The names that Dask gives to the processes of one command."""
    return [name] if processes == 1 else ["{0}-{1}".format(name, index) for index in range(processes)]


def jobqueue(batch: Batch, site: t.Mapping[str, t.Any], variables: t.Mapping[str, str]) -> dict[str, t.Any]:
    """Returns the part of dask-jobqueue's configuration for jobs of one chunk like these."""
    # Not the fingerprint: the scheduler is in a process of the user's, which has none to compare it with.
    shared = {name: value for name, value in variables.items() if name != "FLOTILLA_ENVIRONMENT"}
    prologue = [*batch.setup, *("export {0}={1}".format(name, shell_word(value)) for name, value in shared.items())]
    extra = [*batch.directives]
    if batch.system == "slurm" and batch.constraint:
        extra.append("--constraint=" + batch.constraint)
    chunk = "select=1:ncpus={0}:mem={1}mb".format(batch.cpus, batch.memory // MIB)
    result: dict[str, t.Any] = {
        "name": "dask-" + batch.name,
        "cores": batch.cpus,
        "processes": batch.processes,
        "memory": "{0} B".format(batch.usable),
        "interface": batch.interface or None,
        "death-timeout": 60,
        "local-directory": batch.local_directory or "${TMPDIR:-/tmp}",
        "shared-temp-directory": None,
        "python": str(site["python"]),
        "queue": batch.queue or None,
        "account": batch.account or None,
        "walltime": clock(batch.walltime),
        "job-script-prologue": prologue,
        "job-extra-directives": extra,
        "job-directives-skip": [],
        "worker-extra-args": [
            "--preload-nanny",
            IN_PROCESS,
            "--preload",
            IN_PROCESS,
            "--dashboard-address",
            LOOPBACK + ":0",
            "--lifetime",
            "{0}s".format(batch.walltime - batch.leave_seconds),
        ],
        "scheduler-options": {"dashboard_address": LOOPBACK + ":0", "preload": [IN_PROCESS]},
        "log-directory": posixpath.join(str(site["directory"]), "jobqueue"),
    }
    if batch.system == "slurm":
        result.update({"job-cpu": batch.cpus, "job-mem": "{0}M".format(batch.memory // MIB)})
    else:
        result["resource-spec"] = chunk + (":" + batch.constraint if batch.constraint else "")
    return result


def _job(
    batch: Batch,
    kind: str,
    directory: str,
    site: t.Mapping[str, t.Any],
    application: t.Mapping[str, t.Any] | None,
    stem: str,
) -> dict[str, t.Any]:
    """What the code inside the job reads."""
    protocol = "tls" if site["tls"] else "tcp"
    python = str(site["python"])
    scheduler = (*dask_command(python, "dask_scheduler"), "--protocol", protocol, "--port", "0")
    scheduler += ("--idle-timeout", "{0}s".format(batch.idle_timeout)) if batch.idle_timeout else ()
    worker = (*dask_command(python, "dask_worker"), "--protocol", protocol)
    worker += ("--nworkers", str(batch.processes), "--nthreads", str(batch.threads))
    worker += ("--memory-limit", str(batch.memory_limit))
    return {
        "cluster": batch.name,
        "kind": kind,
        "system": batch.system,
        "directory": directory,
        "chunks": batch.chunks,
        "workers": len(promised(batch)),
        "scheduler": [*scheduler, "--preload", IN_PROCESS],
        "worker": [*worker, "--preload-nanny", IN_PROCESS, "--preload", IN_PROCESS],
        "scheduler_alone": batch.scheduler_alone and kind == "cluster",
        "interface": batch.interface,
        "dashboard": batch.dashboard,
        "local_directory": batch.local_directory,
        "walltime": batch.walltime,
        "drain_seconds": batch.drain_seconds,
        "leave_seconds": batch.leave_seconds,
        "last_seconds": LAST_MARGIN,
        "certificates": {name: str(site.get(name, "")) for name in ("authorities", "identity")} if site["tls"] else {},
        "application": _brought(application, stem) if kind == "cluster" else None,
    }


def _brought(application: t.Mapping[str, t.Any] | None, stem: str) -> dict[str, t.Any] | None:
    """What runs inside the job, its script where it will be if it comes from elsewhere."""
    if application is None:
        return None
    script = str(application["script"])
    if application["content"]:
        script = "{0}-{1}".format(stem, posixpath.basename(script) or "script.py")
    return {"function": application["function"], "script": script, "arguments": application["arguments"]}


def _specification(settings: t.Mapping[str, t.Any], application: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """What makes a cluster the one that it is; two of the same name with equal ones are the same cluster."""
    names = """chunks cpus memory walltime queue account place constraint directives variant memory_reserve
    scheduler_alone interface dashboard local_directory setup environment idle_timeout drain_seconds"""
    secrets = {"secrets": settings["secrets"]} if settings.get("secrets") else {}
    return {**{name: settings.get(name) for name in names.split()}, "application": application, **secrets}


def _read_application(reader: Reader) -> dict[str, t.Any] | None:
    """What runs inside the job, checked by the module as that of ``dask_job``."""
    function, script = reader.settings.get("function"), reader.settings.get("script")
    if not (function or script):
        return None
    if reader.settings.get("idle_timeout"):
        reader.refuse(
            "idle_timeout", reader.settings["idle_timeout"], "none with a script or function, whose end ends it"
        )
    return {
        "function": str(function or ""),
        "script": str(script or ""),
        "content": digest(reader.settings["content"]) if reader.settings.get("content") is not None else "",
        "arguments": reader.settings.get("arguments") or [],
    }


def _read_directory(reader: Reader, default: str) -> str:
    value = reader.settings.get("directory")
    return _read_word(reader, "directory", value, _TEXT_PATH, "an absolute path that all nodes share") or default


def _read_word(reader: Reader, variable: str, value: t.Any, pattern: re.Pattern[str], allowed: str) -> str:
    """A text of a given form, or empty for the default."""
    if value in (None, ""):
        return ""
    if isinstance(value, str) and pattern.fullmatch(value):
        return str(value)
    reader.refuse(variable, value, allowed)
    return ""


def _read_walltime(reader: Reader, system: str, value: t.Any, least: int) -> int:
    seconds = parse_walltime(str(value).strip()) if value is not None else None
    days = "-" in str(value)
    if seconds is None or (days and system == "pbs"):
        reader.refuse(
            "walltime",
            value,
            "hours, minutes and seconds as 'HH:MM:SS', in quotes{0}".format(
                ", or with days as 'D-HH:MM:SS'" if system == "slurm" else ", with more than 24 hours for days"
            ),
        )
        return 0
    if seconds < least:
        reader.refuse(
            "walltime",
            value,
            "at least {0}, as workers hand over their data for drain_seconds and the scheduler stops {1} s before the "
            "end".format(clock(least), LAST_MARGIN),
        )
    return seconds


def _read_memory(reader: Reader, value: t.Any, pieces: int) -> int:
    """Bytes of a chunk, so many that the queue can be asked for them in ``pieces`` of whole MiB."""
    try:
        size = memory.parse_memory(value)
    except ValueError as error:
        reader.refuse(
            "memory",
            value,
            "the size of a chunk with a unit such as '20 GB' or '16 GiB', which the queue is told in MiB ({0})".format(
                error
            ),
        )
        return 0
    size = size // (MIB * pieces) * MIB * pieces
    if size < memory.MINIMUM_PER_PROCESS or str(value).strip().isdigit():
        reader.refuse(
            "memory",
            value,
            "the size of a chunk with a unit such as '20 GB' or '16 GiB', at least {0}".format(
                memory.human(memory.MINIMUM_PER_PROCESS)
            ),
        )
    return size


def _read_usable(reader: Reader, size: int, value: t.Any, processes: int) -> int:
    """Bytes of a chunk for its workers."""
    if not size:
        return 0
    try:
        reserve = 0 if str(value).strip() in ("0", "0.0") else memory.parse_memory(value, size)
    except ValueError as error:
        reader.refuse(
            "memory_reserve",
            value,
            "a size with a unit, or a fraction of the chunk's memory such as 0.1 ({0})".format(error),
        )
        return size
    usable = size - reserve
    if usable // processes < memory.MINIMUM_PER_PROCESS:
        reader.refuse(
            "memory",
            reader.settings.get("memory"),
            "one that leaves, less the memory_reserve {0}, at least {1} for each of {2} worker processes".format(
                memory.human(reserve), memory.human(memory.MINIMUM_PER_PROCESS), processes
            ),
        )
        return size
    return usable


def _read_place(reader: Reader, system: str, value: t.Any) -> str:
    if value in (None, ""):
        return ""
    found = _PLACE.fullmatch(str(value))
    more = found["more"] if found else ""
    if found and (system == "pbs" or (found["arrangement"] in PLACES and more in ("", ":excl", ":exclhost"))):
        return str(value)
    allowed = (
        "free, scatter (each chunk on a node of its own) or pack (all on one), with :excl where nobody else may be"
    )
    reader.refuse("place", value, allowed if system == "slurm" else allowed + ", and what else 'place' of PBS may be")
    return ""


def _scattered(place: str) -> bool:
    return place.startswith("scatter")


def _read_constraint(reader: Reader, system: str, value: t.Any) -> str:
    if system == "slurm":
        return _read_word(
            reader, "constraint", value, _FEATURES, "features of nodes such as 'skylake&ib', without spaces"
        )
    allowed = "resources that each chunk needs beside processors and memory, such as 'model=skylake:ngpus=1'"
    return _read_word(reader, "constraint", value, _RESOURCES, allowed)


def _read_directives(reader: Reader, system: str) -> tuple[str, ...]:
    result = []
    mark = _OPTION_LINE[system].strip()
    for index, text in enumerate(reader.sequence("directives", reader.settings.get("directives"))):
        where = "directives[{0}]".format(index)
        if not isinstance(text, str) or not text.startswith("-") or not _LINE.fullmatch(text):
            reader.refuse(
                where, text, "options as they follow {0} in one line, such as '--reservation=lab'".format(mark)
            )
        elif _OURS[system].match(text):
            reader.refuse(
                where, text, "options that don't follow from others, as those for its chunks, time and files do"
            )
        else:
            result.append(str(text))
    return tuple(result)


def _read_alone(reader: Reader) -> bool:
    alone = reader.boolean("scheduler_alone", reader.settings.get("scheduler_alone", False))
    if alone and str(reader.settings.get("chunks", 1)).strip() == "1":
        reader.refuse(
            "chunks", reader.settings.get("chunks", 1), "at least 2 with scheduler_alone, which leaves no workers"
        )
    return alone


def _read_setup(reader: Reader) -> tuple[str, ...]:
    result = []
    for index, text in enumerate(reader.sequence("setup", reader.settings.get("setup"))):
        if isinstance(text, str) and text.strip() and _LINE.fullmatch(text):
            result.append(str(text))
        else:
            reader.refuse("setup[{0}]".format(index), text, "one line of shell such as 'module load python/3.11'")
    return tuple(result)
