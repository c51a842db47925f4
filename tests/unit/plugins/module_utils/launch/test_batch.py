# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a queue is asked for follows from the options, and every script is one that a shell takes as it is meant."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.batch import batch_plan, clock, parse_walltime

GIB = 2**30
MIB = 2**20
NASTY = 'it\'s "quoted" $HOME `id` \\ and spaced'


def options(system: str = "slurm", **changes: t.Any) -> dict[str, t.Any]:
    site = {
        "system": system,
        "directory": "/lab/dask/main/var/batch",
        "python": "/lab/dask/main/opt/envs/dask-1/bin/python",
        "environment": {"DASK_CONFIG": "/lab/dask/main/etc/dask.yaml", "PYTHONPATH": "/lab/dask/main/etc/python"},
        "tls": True,
        "authorities": "/lab/ca.crt",
        "identity": "/lab/host.pem",
    }
    site.update(changes.pop("site", {}))
    accepted = {"name": "main", "chunks": 9, "cpus": 4, "memory": "20 GiB", "walltime": "01:00:00", "site": site}
    return {**accepted, **changes}


def plan(system: str = "slurm", **changes: t.Any) -> dict[str, t.Any]:
    return batch_plan(options(system, **changes))


def refused(system: str = "slurm", **changes: t.Any) -> str:
    with pytest.raises(SettingsError) as error:
        plan(system, **changes)
    return str(error.value)


def test_slurm_is_asked_for_tasks_with_processors_memory_and_time() -> None:
    made = plan(queue="short", account="lab", constraint="skylake&ib", directives=["--reservation=school"])
    assert made["directives"] == [
        "#SBATCH --job-name=" + made["job_name"],
        "#SBATCH --ntasks=9",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem-per-cpu=5120M",
        "#SBATCH --time=01:00:00",
        "#SBATCH --partition=short",
        "#SBATCH --account=lab",
        "#SBATCH --constraint=skylake&ib",
        "#SBATCH --no-kill",
        "#SBATCH --no-requeue",
        "#SBATCH --output=queue-%j.log",
        "#SBATCH --reservation=school",
    ]
    scattered = plan(place="scatter:excl")["directives"]
    assert {"#SBATCH --nodes=9", "#SBATCH --ntasks-per-node=1", "#SBATCH --mem=20480M"} <= set(scattered)
    assert "#SBATCH --exclusive" in scattered
    assert "#SBATCH --nodes=1" in plan(place="pack")["directives"]


def test_pbs_is_asked_for_chunks() -> None:
    made = plan("pbs", queue="short", account="lab", constraint="model=sky", place="scatter", directives=["-P lab"])
    assert made["directives"] == [
        "#PBS -N " + made["job_name"],
        "#PBS -l select=9:ncpus=4:mpiprocs=1:mem=20480mb:model=sky",
        "#PBS -l place=scatter",
        "#PBS -l walltime=01:00:00",
        "#PBS -q short",
        "#PBS -A lab",
        "#PBS -S /bin/bash",
        "#PBS -j oe",
        "#PBS -r n",
        "#PBS -P lab",
    ]


@pytest.mark.parametrize(
    ("variant", "workers", "threads", "limit"), [("processes", 4, 1, 18 * GIB // 4), ("threads", 1, 4, 18 * GIB)]
)
def test_memory_of_a_process_is_its_share_of_the_chunk_less_the_reserve(
    variant: str, workers: int, threads: int, limit: int
) -> None:
    worker = plan(variant=variant, memory_reserve="2 GiB")["job"]["worker"]
    words = dict(zip(worker, worker[1:]))
    assert (words["--nworkers"], words["--nthreads"]) == (str(workers), str(threads))
    assert words["--memory-limit"] == str(limit)


@given(st.integers(1, 64), st.integers(300, 2**40), st.sampled_from(["", "scatter"]), st.sampled_from(["slurm", "pbs"]))
def test_workers_never_have_more_than_the_queue_is_asked_for(
    cpus: int, mebibytes: int, place: str, system: str
) -> None:
    try:
        made = plan(system, cpus=cpus, memory="{0} MiB".format(mebibytes), place=place, memory_reserve=0)
    except SettingsError:
        assert mebibytes / cpus < 65
        return
    worker = made["job"]["worker"]
    limit = int(worker[worker.index("--memory-limit") + 1])
    text = "\n".join(made["directives"])
    sizes = {
        key: int(text.split(key)[1].split("M")[0].split("m")[0])
        for key in ("--mem=", "--mem-per-cpu=", ":mem=")
        if key in text
    }
    ((key, asked),) = sizes.items()
    asked *= cpus if key == "--mem-per-cpu=" else 1
    assert limit * cpus <= asked * MIB
    assert asked <= mebibytes


def test_the_scheduler_may_have_the_first_chunk_to_itself() -> None:
    assert [each["name"] for each in plan(chunks=2, cpus=2)["workers"]] == [
        "chunk-0-0",
        "chunk-0-1",
        "chunk-1-0",
        "chunk-1-1",
    ]
    assert [each["name"] for each in plan(chunks=3, scheduler_alone=True, variant="threads")["workers"]] == [
        "chunk-1",
        "chunk-2",
    ]
    assert "at least 2 with scheduler_alone" in refused(chunks=1, scheduler_alone=True)


def test_two_clusters_are_the_same_by_what_they_are_and_not_by_how_long_one_waits() -> None:
    assert plan()["digest"] == plan(timeout=5, state="submitted")["digest"]
    assert plan()["digest"] == plan(site={"python": "/another/bin/python"})["digest"]
    assert plan()["stem"] != plan(site={"python": "/another/bin/python"})["stem"]
    for changes in ({"chunks": 8}, {"walltime": "02:00:00"}, {"setup": ["module load gcc"]}, {"function": "a:b"}):
        assert plan(**changes)["digest"] != plan()["digest"]


def test_a_jobs_name_tells_it_from_all_that_are_not_the_same() -> None:
    others: list[dict[str, t.Any]] = [
        {},
        {"chunks": 8},
        {"kind": "workers"},
        {"directory": "/elsewhere"},
        {"site": {"python": "/x/bin/python"}},
    ]
    names = {plan(**changes)["job_name"] for changes in others}
    assert len(names) == len(others)
    assert all(name.startswith("dask-main-") for name in names)


@pytest.mark.parametrize(
    ("system", "changes", "words"),
    [
        ("slurm", {"walltime": "60"}, "'HH:MM:SS', in quotes, or with days as 'D-HH:MM:SS'"),
        ("slurm", {"walltime": 3600}, "walltime: 3600 is refused"),
        ("pbs", {"walltime": "1-00:00:00"}, "more than 24 hours for days"),
        ("pbs", {"walltime": "00:61:00"}, "HH:MM:SS"),
        ("pbs", {"walltime": "00:01:00"}, "at least 00:01:50"),
        ("pbs", {"walltime": None}, "HH:MM:SS"),
        ("slurm", {"memory": "20"}, "with a unit"),
        ("slurm", {"memory": 0.5}, "with a unit"),
        ("pbs", {"memory": "20 GX"}, "no unit 'GX'"),
        ("pbs", {"memory": None}, "with a unit"),
        ("pbs", {"memory": "200 MiB"}, "for each of 4 worker processes"),
        ("pbs", {"memory_reserve": "30 GiB"}, "less the memory_reserve"),
        ("pbs", {"memory_reserve": "some"}, "memory_reserve: 'some' is refused"),
        ("slurm", {"queue": "short; id"}, "the name of a queue or partition"),
        ("slurm", {"account": "-x"}, "the name of an account"),
        ("slurm", {"constraint": "a b"}, "features of nodes"),
        ("pbs", {"constraint": "skylake"}, "resources that each chunk needs"),
        ("slurm", {"place": "vscatter"}, "scatter (each chunk"),
        ("slurm", {"directives": ["--time=1"]}, "don't follow from others"),
        ("pbs", {"directives": ["-l select=3"]}, "don't follow from others"),
        ("slurm", {"directives": ["--x=1\n#SBATCH --y"]}, "in one line"),
        ("slurm", {"setup": ["a\nb"]}, "one line of shell"),
        ("slurm", {"interface": "ib0;id"}, "network interface"),
        ("slurm", {"local_directory": "scratch"}, "absolute path on the nodes"),
        ("slurm", {"directory": "here"}, "absolute path that all nodes share"),
        ("slurm", {"environment": {"A-B": "x"}}, "letters, digits"),
        ("slurm", {"name": "my cluster"}, "lower-case letters"),
        ("slurm", {"variant": "both"}, "processes, threads"),
        ("slurm", {"chunks": 0}, "a number of chunks from 1"),
        ("slurm", {"function": "a:b", "idle_timeout": 60}, "whose end ends it"),
    ],
)
def test_what_a_queue_or_a_shell_would_take_amiss_is_refused(
    system: str, changes: dict[str, t.Any], words: str
) -> None:
    assert words in refused(system, **changes)


def test_all_problems_are_told_at_once() -> None:
    told = refused(walltime="soon", memory="much", queue="a b")
    assert told.count("is refused. Allowed") == 3


@given(st.integers(0, 10**7))
def test_a_walltime_is_read_as_it_is_written(seconds: int) -> None:
    assert parse_walltime(clock(seconds)) == seconds


def test_days_are_read() -> None:
    assert parse_walltime("2-03:04:05") == 2 * 86400 + 3 * 3600 + 4 * 60 + 5


def script(root: Path, render: t.Any, made: dict[str, t.Any]) -> str:
    text = (root / "roles/dask_batch/templates/job.sh.j2").read_text()
    return str(render(text, plan=made))


@pytest.mark.parametrize("system", ["slurm", "pbs"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"directory": "/lab/" + NASTY, "environment": {"TITLE": NASTY}, "setup": ["module load 'my module'"]},
        {"scheduler_alone": True, "variant": "threads", "place": "scatter:excl", "queue": "short"},
    ],
)
def test_every_script_passes_the_shells_own_check_and_shellcheck(
    root: Path, render: t.Any, tmp_path: Path, system: str, changes: dict[str, t.Any]
) -> None:
    path = tmp_path / "job.sh"
    path.write_text(script(root, render, plan(system, **changes)))
    assert path.read_text().startswith("#!/bin/bash\n#")
    subprocess.run(["bash", "-n", path], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


# Stands for srun and pbsdsh alike: runs what follows on every chunk, without the job's variables for the latter.
SRUN = """#!/bin/bash
while [ "${1#-}" != "$1" ]; do shift; done
for SLURM_PROCID in 0 1 2; do export SLURM_PROCID; "$@" & done
wait
"""
PBSDSH = """#!/bin/bash
shift 3
exec env --ignore-environment "PATH=/usr/bin:/bin" "HOME=$HOME" "$@"
"""
PYTHON = """#!{python}
import json, os, sys
with open(os.path.join({where!r}, "seen-" + sys.argv[-1]), "x") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
"""


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_every_chunk_sets_its_environment_up_once_and_gets_its_number(
    root: Path, render: t.Any, tmp_path: Path, system: str
) -> None:
    shared = tmp_path / NASTY.replace("/", "")
    seen, tools = tmp_path / "seen", tmp_path / "tools"
    for directory in (shared / "main" / "scripts", seen, tools):
        directory.mkdir(parents=True)
    for name, text in (
        ("srun", SRUN),
        ("pbsdsh", PBSDSH),
        ("python", PYTHON.format(python=sys.executable, where=str(seen))),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    made = plan(
        system,
        chunks=3,
        directory=str(shared),
        environment={"TITLE": NASTY, "OMP_NUM_THREADS": "2"},
        setup=["echo once >>{0}".format(shlex.quote(str(tmp_path / "setup")))],
        site={"python": str(tools / "python")},
    )
    launcher = Path(made["stem"] + ".sh")
    launcher.write_text(script(root, render, made))
    variables = {"PATH": "{0}:/usr/bin:/bin".format(tools), "HOME": str(tmp_path)}
    variables["SLURM_JOB_ID" if system == "slurm" else "PBS_JOBID"] = "12.head"
    done = subprocess.run(["bash", launcher], env=variables, capture_output=True, text=True, timeout=30)
    log = shared / "main" / "jobs" / "12.head" / "job.log"
    assert done.returncode == 97, done.stderr  # nobody said how it ended
    assert log.read_text() == ""
    found = [json.loads((seen / "seen-{0}".format(chunk)).read_text()) for chunk in range(3)]
    for chunk, (words, environment) in enumerate(found):
        assert words[:3] == [made["stem"] + ".py", "chunk", made["stem"] + ".json"]
        assert (words[3], words[5]) == ("12.head", str(chunk))
        assert environment["TITLE"] == NASTY
        assert environment["OMP_NUM_THREADS"] == "2"
        assert environment["MKL_NUM_THREADS"] == "1"
    assert (tmp_path / "setup").read_text() == "once\n" * 3
    assert sorted(path.name for path in log.with_name("here").iterdir()) == ["0", "1", "2"]


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_the_same_options_configure_dask_jobqueue(system: str) -> None:
    made = plan(system, queue="short", setup=["module load gcc"], environment={"A": "b c"})["jobqueue"]["jobqueue"][
        system
    ]
    assert (made["cores"], made["processes"], made["queue"], made["walltime"]) == (4, 4, "short", "01:00:00")
    assert made["job-script-prologue"][0] == "module load gcc"
    assert 'export A="b c"' in made["job-script-prologue"]
    assert made.get("job-mem", "20480M") == "20480M"
    assert made.get("resource-spec", "mem=20480mb").endswith("mem=20480mb")
