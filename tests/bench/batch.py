# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster in a job of Slurm, started by the module, and by the lines that labs paste into their own scripts."""

from __future__ import annotations

import time

import containers

HOME = "/shared/dask"
PYTHON = f"{HOME}/main/opt/envs/current/bin/python"
PLACE = "/shared/plain"
NODES, CPUS, MEMORY = 3, 4, "2000 MiB"
OPTIONS = {
    "home": HOME,
    "name": "bench",
    "chunks": NODES,
    "cpus": CPUS,
    "memory": MEMORY,
    "walltime": "00:10:00",
    "place": "scatter",
    "drain_seconds": 5,
}

# Scheduler on the first node, workers on all, found by the scheduler's file; no encryption.
PLAIN = f"""#!/bin/bash
#SBATCH --ntasks={NODES} --nodes={NODES} --cpus-per-task={CPUS} --mem=2000M --time=00:10:00 --output={PLACE}/log
cd {PLACE}
date +%s.%N >started
alone="srun --overlap --nodes=1 --ntasks=1 --cpus-per-task={CPUS} --mpi=none"
$alone --relative=0 {PYTHON} -m distributed.cli.dask_scheduler --scheduler-file scheduler.json \\
  --dashboard-address 127.0.0.1:8787 &
for node in {" ".join(map(str, range(NODES)))}; do
  $alone --relative=$node {PYTHON} -m distributed.cli.dask_worker --scheduler-file scheduler.json --nworkers {CPUS} \\
    --nthreads 1 --memory-limit 400MiB --name worker-$node --local-directory /tmp --dashboard-address 127.0.0.1:0 &
done
python3 - <<'END'
import json, time, urllib.request
while True:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8787/json/counts.json") as answer:
            if json.load(answer)["workers"] == {NODES * CPUS}:
                break
    except OSError:
        pass
    time.sleep(0.05)
with open("ready", "w") as file:
    file.write(str(time.time()))
END
wait
"""


def plain(login: containers.Host, user: str, seconds: float) -> float:
    """Runs the script, and returns how long after the job's start all workers were there.

    It is run again where a worker reads the scheduler's file while that is written, and ends.
    """
    end = time.monotonic() + seconds
    log = ""
    while time.monotonic() < end:
        login.run(f"rm -rf {PLACE}; install -d -o {user} {PLACE}; printf %s {quoted(PLAIN)} >{PLACE}/job.sh")
        job = login.run(f"sudo -u {user} sbatch --parsable {PLACE}/job.sh").strip()
        ready, log = "", ""
        while not ready and "Exited with exit code" not in log and time.monotonic() < end:
            time.sleep(0.5)
            ready = login.run(f"cat {PLACE}/ready 2>&1 || true").partition("cat:")[0]
            log = login.run(f"cat {PLACE}/log 2>&1 || true")
        login.run(f"scancel {job}; while squeue --noheader --jobs={job} 2>&1 | grep -q {job}; do sleep 0.2; done")
        if ready:
            return float(ready) - float(login.run(f"cat {PLACE}/started"))
    raise RuntimeError(log[-2000:])


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
