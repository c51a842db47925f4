# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A scheduler on a port with many workers, all in this process: `simulate.py PORT WORKERS`."""

from __future__ import annotations

import asyncio
import sys

import dask
from distributed import Scheduler, Worker

# What each worker does several times a second; 500 in one process would keep its scheduler from answering.
QUIET = {
    "distributed.admin.system-monitor.interval": "1 minute",
    "distributed.admin.tick.interval": "1 minute",
    "distributed.worker.memory.monitor-interval": "1 minute",
    "distributed.worker.profile.interval": "1 minute",
    "distributed.worker.profile.cycle": "1 minute",
}


async def main(port: int, workers: int) -> None:
    async with Scheduler(host="127.0.0.1", port=port, dashboard=False) as scheduler:
        for start in range(0, workers, 50):
            numbers = range(start, min(start + 50, workers))
            await asyncio.gather(
                *(
                    Worker(scheduler.address, name=f"simulated-{number}", nthreads=1, dashboard=False)
                    for number in numbers
                )
            )
        await scheduler.finished()


if __name__ == "__main__":
    with dask.config.set(QUIET):
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
