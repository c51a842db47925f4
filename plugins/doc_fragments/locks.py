# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What the modules that make locks share."""

    DOCUMENTATION = r"""
options:
  update:
    description: Whether to solve anew, with the newest versions that fit. Reports a change only if there was one.
    type: bool
    default: false
  cache:
    description:
      - Directory for what indexes and channels say about their packages. By default C(flotilla-dask) in the user's
        cache directory.
    type: path
    default: ""
  wheelhouse:
    description: Directory or address that uv takes wheels from instead of an index.
    type: str
    default: ""
  ca_bundle:
    description: File with the certificates of the authorities that are trusted when something is fetched.
    type: path
    default: ""
attributes:
  check_mode:
    support: full
    details: Solves, and writes nothing.
  diff_mode:
    support: full
  idempotent:
    support: full
"""
