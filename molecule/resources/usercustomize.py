# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes Python on a test's host keep what it compiles of modules that come as archives, as Ansible's do.

Each execution of a module brings all that it imports as text, and takes as long to compile that as for all the rest.
"""

from __future__ import annotations

import _imp
import marshal
import os
import zipimport
from types import CodeType

KEPT = f"/var/tmp/compiled-{os.getuid()}"
compile_source = zipimport._compile_source  # type: ignore[attr-defined]


def compile_once(path: str, source: bytes) -> CodeType:
    kept = f"{KEPT}/{_imp.source_hash(0, source).hex()}"
    try:
        with open(kept, "rb") as file:
            found: CodeType = marshal.load(file)
            return found
    except FileNotFoundError:
        code: CodeType = compile_source(path, source)
    os.makedirs(KEPT, mode=0o700, exist_ok=True)
    with open(f"{kept}.{os.getpid()}", "wb") as output:
        marshal.dump(code, output)
    os.replace(output.name, kept)
    return code


zipimport._compile_source = compile_once  # type: ignore[attr-defined]
