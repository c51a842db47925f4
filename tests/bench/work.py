# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trivial work of the measurements: one task on the cluster."""

from __future__ import annotations

import operator

from distributed import get_client


def add() -> int:
    """Adds two numbers on a worker."""
    result: int = get_client().submit(operator.add, 1, 2, pure=False).result()
    return result
