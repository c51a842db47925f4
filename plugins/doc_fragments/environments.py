# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What the modules that install software share."""

    DOCUMENTATION = r"""
options:
  path:
    description: Directory of the environment, absolute. Nobody else should have anything in it.
    type: path
    required: true
  cache:
    description: Directory on the host that keeps what was fetched, for other environments.
    type: path
    required: true
  download_on:
    description:
      - With V(host) the host fetches packages itself.
      - With V(controller) the controller does, into a cache of its own, and sends what the host lacks.
    type: str
    choices: [host, controller]
    default: host
  wheelhouse:
    description: Directory or address that uv takes wheels from instead of an index, where packages are fetched.
    type: str
    default: ""
  ca_bundle:
    description:
      - File on the controller with the certificates of the authorities that are trusted when something is fetched, by
        the
        controller and by the host.
    type: str
    default: ""
  controller_cache:
    description:
      - Directory on the controller that keeps what was fetched. By default C(flotilla-dask) in the user's cache
        directory.
    type: str
    default: ""
  uv:
    description: Name of the program uv, in O(cache) or among O(supplies). Set by the action plugin.
    type: str
    default: ""
  supplies:
    description: Archive on the host with what the controller sent. Set by the action plugin.
    type: path
    default: ""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - An action plugin on the controller brings along what the host lacks, in one archive.
"""
