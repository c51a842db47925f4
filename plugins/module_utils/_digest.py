# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Identifies content (private to this collection)."""

from __future__ import annotations

import hashlib
import json
import typing as t


def digest(content: t.Any) -> str:
    """Returns 12 hexadecimal digits that are the same for the same JSON content, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
