# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counts the words of many files on a Dask cluster."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

from distributed import get_client

WORD = re.compile(r"[A-Za-z]{2,}")


def count_files(paths: list[str]) -> Counter[str]:
    """Returns how often each word occurs in some files. Runs on a worker."""
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(WORD.findall(Path(path).read_text(encoding="utf-8", errors="replace").lower()))
    return counts


def add(counts: list[Counter[str]]) -> Counter[str]:
    """Returns the sum of some counts. Runs on a worker."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def count_words(directory: str = "", pattern: str = "**/*.py", top: int = 10, parts: int = 16) -> dict[str, object]:
    """Counts the words of all files below a directory that every worker can read.

    :param directory: Where the files are; by default Python's own standard library.
    :param top: How many of the most frequent words to return.
    :param parts: How many tasks to split the files over.
    :returns: ``files``, ``words`` (how many in all), ``distinct``, and ``top``: pairs of word and count.
    """
    root = Path(directory or sysconfig.get_path("stdlib"))
    paths = sorted(str(path) for path in root.glob(pattern) if "site-packages" not in path.parts and path.is_file())
    if not paths:
        raise FileNotFoundError(f"no file matches {pattern} below {root}")
    client = get_client()
    counts = client.map(count_files, [paths[part::parts] for part in range(min(parts, len(paths)))], pure=False)
    total: Counter[str] = client.submit(add, counts, pure=False).result()
    return {
        "files": len(paths),
        "words": sum(total.values()),
        "distinct": len(total),
        "top": [[word, count] for word, count in total.most_common(top)],
    }
