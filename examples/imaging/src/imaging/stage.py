# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the stages share: how they find the cluster, how they write files, and how they fail."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import typing as t
from pathlib import Path

from distributed import Client, get_client

SCHEDULER = "ARL_DASK_SCHEDULER"
"""The environment variable that says where the scheduler is; without it Dask's own configuration does."""


class ImagingError(Exception):
    """A stage cannot do what it was asked for; says why, and what would do."""


@contextlib.contextmanager
def connected(patience: float) -> t.Iterator[Client]:
    """Gives a client of a cluster that has workers: the process's own if it has one, as a job of dask_job does.

    :param patience: Seconds to wait for the scheduler, and again for its first worker.
    :raises ImagingError: there is no scheduler, or it has no workers.
    """
    if not patience > 0:
        raise ImagingError(f"patience: {patience:g} is refused. Allowed: more than 0 seconds.")
    with contextlib.ExitStack() as stack:
        try:
            client = get_client()
        except ValueError:
            client = stack.enter_context(_connect(os.environ.get(SCHEDULER) or None, patience))
        address = client.scheduler_info(n_workers=0)["address"]
        try:
            client.wait_for_workers(1, timeout=patience)
        except TimeoutError as error:
            raise ImagingError(
                f"The scheduler at {address} has no workers after {patience:g} s. Start some, or wait longer "
                "(patience)."
            ) from error
        say(f"scheduler {address}, {len(client.nthreads())} workers")
        yield client


def _connect(address: str | None, patience: float) -> Client:
    try:
        return Client(address, timeout=patience)
    except (OSError, RuntimeError, ValueError) as error:  # the second for what Dask's configuration forbids
        where = f"at {address}, which {SCHEDULER} names," if address else "that Dask's configuration names"
        raise ImagingError(f"The scheduler {where} cannot be reached within {patience:g} s: {error}") from error


@contextlib.contextmanager
def written(path: Path) -> t.Iterator[Path]:
    """Gives a path to write to; what was written is at ``path`` when it is complete, and not at all otherwise."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    with written(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def output_directory(path: str) -> Path:
    """Returns a directory, made if it isn't there. :raises ImagingError: it cannot be written to."""
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImagingError(f"output: '{path}' is refused: {error.strerror}. Allowed: a directory.") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ImagingError(f"output: '{path}' is refused: this user may not write there.")
    return directory


def say(line: str) -> None:
    """Tells the stage's log how far it is."""
    print(line, flush=True)


def run(stage: t.Callable[..., object], parser: argparse.ArgumentParser) -> None:
    """Runs a stage as a program: options are the function's keywords, an error is its last line and status 1."""
    try:
        stage(**vars(parser.parse_args()))
    except ImagingError as error:
        sys.exit(f"{parser.prog}: {error}")
