# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Greets from three workers at once: the smallest job that needs a cluster.

Run it by hand with DASK_SCHEDULER_ADDRESS set, or as it is with the module dask_job (see greeting.yml). Its name and
greeting are its arguments.
"""

from __future__ import annotations

import sys
import uuid

from distributed import Client, Event, get_worker

TASKS = 3
PATIENCE = 60
"""Seconds that the tasks wait for each other."""


def greet(number: int, text: str, meeting: str) -> str:
    """Says a greeting once all tasks of a meeting run, each on its worker. Runs on a worker."""
    Event(f"{meeting}-{number}").set()
    for other in range(TASKS):
        if not Event(f"{meeting}-{other}").wait(PATIENCE):
            raise TimeoutError(f"task {other} did not start beside task {number}")
    return f"{text} from {get_worker().address}"


def main(text: str = "Hello") -> None:
    """Greets, and ends with an error unless it was from three workers."""
    with Client() as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])[:TASKS]
        if len(workers) < TASKS:
            sys.exit(f"the cluster has {len(workers)} workers, the greeting needs {TASKS}")
        meeting = uuid.uuid4().hex
        greetings = [
            client.submit(greet, number, text, meeting, workers=[worker], pure=False)
            for number, worker in enumerate(workers)
        ]
        for line in client.gather(greetings):
            print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
