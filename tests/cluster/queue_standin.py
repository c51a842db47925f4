# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands for PBS, which no package of Debian has: a job starts at once, on this machine, with the variables of a MoM.

Called by the name of the command that it is: qsub, qstat, qselect, qdel, pbsdsh.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

JOBS = Path(os.environ["STANDIN_JOBS"])
KEPT = ("HOME", "PATH", "LANG", "STANDIN_JOBS")


def qsub(script: str) -> int:
    text = Path(script).read_text()
    if "#PBS -q nowhere" in text:
        sys.stderr.write("qsub: Unknown queue\n")
        return 170
    job = "{0}.standin".format(1 + len(list(JOBS.iterdir())))
    (JOBS / job).mkdir()
    held = "#PBS -q full" in text
    (JOBS / job / "name").write_text(re.findall("^#PBS -N (.*)", text, re.MULTILINE)[0])
    if not held:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        words = ["bash", "-c", 'bash "$1" >"$2/out" 2>&1; echo $? >"$2/code.part"; mv "$2/code.part" "$2/code"', "-"]
        process = subprocess.Popen(
            [*words, script, str(JOBS / job)],
            env={**environment, "PBS_JOBID": job, "PBS_ENVIRONMENT": "PBS_BATCH"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (JOBS / job / "pid").write_text(str(process.pid))
    sys.stdout.write(job + "\n")
    return 0


def qstat(job: str) -> int:
    path = JOBS / job
    if not path.is_dir() or (path / "deleted").exists():
        sys.stderr.write("qstat: Unknown Job Id {0}\n".format(job))
        return 153
    about: dict[str, str | int] = {"Job_Name": "dask", "job_state": "R", "exec_host": "here/0*4"}
    if (path / "code").exists():
        about.update(job_state="F", Exit_status=int((path / "code").read_text()))
    elif not (path / "pid").exists():
        about.update(job_state="Q", comment="Not Running: Insufficient amount of resource: ncpus")
    sys.stdout.write(json.dumps({"pbs_version": "23.06.06", "Jobs": {job: about}}))
    return 0


def qselect(name: str) -> int:
    for path in JOBS.iterdir():
        ended = any((path / end).exists() for end in ("code", "deleted"))
        if not ended and (path / "name").read_text() == name:
            sys.stdout.write(path.name + "\n")
    return 0


def qdel(job: str) -> int:
    path = JOBS / job
    if (path / "code").exists():
        sys.stderr.write("qdel: Job has finished {0}\n".format(job))
        return 35
    if (path / "pid").exists():
        group = int((path / "pid").read_text())
        os.killpg(group, signal.SIGTERM)
        for _try in range(100):
            if (path / "code").exists():
                break
            time.sleep(0.1)
    (path / "deleted").touch()
    return 0


def pbsdsh(*words: str) -> int:
    assert words[0] == "-n"
    assert words[2] == "--"
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    return subprocess.run(words[3:], env={**environment, "PBS_JOBID": os.environ["PBS_JOBID"]}, check=False).returncode


if __name__ == "__main__":
    command = {"qsub": qsub, "qstat": qstat, "qselect": qselect, "qdel": qdel, "pbsdsh": pbsdsh}[Path(sys.argv[0]).name]
    arguments = sys.argv[1:] if command is pbsdsh else sys.argv[-1:]
    sys.exit(command(*arguments))
