# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Python compiles of an environment, compiled once for all environments (private to this collection).

Processes cannot write to their environment, so that each would compile again whatever it imports. Files of environments
are links to those in a cache: so the same file, by its inode, has the same bytecode, which is kept beside that cache.
"""

from __future__ import annotations

import glob
import os
import tempfile
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.flotilla.dask.plugins.module_utils._service import run

LEFT_OUT = ("__pycache__", "test", "tests")
"""Directories without what a process imports. Packages' own tests are a quarter of all there is to compile."""
AT_ONCE = 8
"""Processes that compile, at most, where there are so many cores."""
FAILED = 1
"""The exit status of compileall where a file cannot be compiled, such as a template or one for another Python."""


def compile_all(interpreter: str, directory: str, cache: str) -> None:
    """Gives every Python file below a directory that a process may import its bytecode.

    :param interpreter: Whose bytecode. ``cache``: a directory on the same file system.
    :raises DaskError: the interpreter cannot compile.
    """
    tag = run([interpreter, "-I", "-S", "-c", "import sys; print(sys.implementation.cache_tag)"]).strip()
    kept = os.path.join(cache, tag)
    os.makedirs(kept, exist_ok=True)
    wanted = {}
    for source in _sources(directory):
        place, name = os.path.split(source)
        target = os.path.join(place, "__pycache__", "{0}.{1}.pyc".format(name[: -len(".py")], tag))
        if not os.path.exists(target):
            wanted[source] = (target, os.path.join(kept, _identity(source)))
    new = {source: pair for source, pair in wanted.items() if not _linked(pair[1], pair[0])}
    if not new:
        return
    # Split here: compileall itself works on a list of files in one process, whatever its -j says.
    number = min(os.cpu_count() or 1, AT_ONCE)
    parts = [part for part in (list(new)[first::number] for first in range(number)) if part]
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(lambda part: _compile(interpreter, part), parts))
    for target, known in new.values():
        _linked(target, known)


def _compile(interpreter: str, sources: t.Iterable[str]) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.writelines(source + "\n" for source in sources)
        file.flush()
        run([interpreter, "-I", "-S", "-m", "compileall", "-q", "-i", file.name], accept=(0, FAILED))


def clear(cache: str) -> None:
    """Removes the bytecode that no environment has."""
    for path in glob.glob(os.path.join(glob.escape(cache), "*", "*.pyc")):
        if os.stat(path).st_nlink == 1:
            os.unlink(path)


def _sources(directory: str) -> t.Iterator[str]:
    for place, directories, files in os.walk(directory):
        directories[:] = [each for each in directories if each not in LEFT_OUT]
        yield from (os.path.join(place, name) for name in files if name.endswith(".py") and "\n" not in place + name)


def _identity(source: str) -> str:
    found = os.stat(source)
    return "{0:x}-{1:x}-{2:x}.pyc".format(found.st_ino, found.st_mtime_ns, found.st_size)


def _linked(source: str, target: str) -> bool:
    """Makes ``target`` another name of ``source``. :return: Whether ``source`` is there."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return True
    except OSError:  # also where the file system has no such links: then every environment has its own
        return False
    return True
