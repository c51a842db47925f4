# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What scientists run on the cluster of the tests; installed there like a plugin package."""

from __future__ import annotations

import os
import time

from distributed import get_client, get_worker


def square_all(numbers: list[int]) -> dict[str, int]:
    """Squares numbers on the workers."""
    client = get_client()
    squares = client.gather(client.map(square, numbers))
    return {str(number): value for number, value in zip(numbers, squares)}


def square(number: int) -> int:
    return number * number


def hold(started: str, release: str) -> str:
    """Says on disk that it runs, on a worker, and ends when it is released."""
    result: str = get_client().submit(wait_for_file, started, release, pure=False).result()
    return result


def wait_for_file(started: str, release: str) -> str:
    with open(started, "a", encoding="utf-8") as file:
        file.write("{0}\n".format(get_worker().name))
    while not os.path.exists(release):
        time.sleep(0.05)
    return "released"


def count_runs(path: str) -> int:
    """Appends a line to a file, and returns how many there are."""
    with open(path, "a+", encoding="utf-8") as file:
        file.write("run\n")
        file.seek(0)
        return len(file.readlines())


def fail(path: str) -> None:
    runs = count_runs(path)
    raise ValueError("no luck, {0}".format(runs))


def return_a_set() -> set[int]:
    return {1, 2}
