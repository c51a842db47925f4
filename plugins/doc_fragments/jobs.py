# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What the job modules share."""

    DOCUMENTATION = r"""
options: {}
requirements:
  - Python 3.9 or newer on the host
notes:
  - A job is a process of its own on the host that the task runs on, with the cluster's environment, configuration and
    scheduler address. It outlives the play and the connection.
  - For root the job runs as the cluster's account, for anybody else as themselves, and is kept among that account's
    jobs.
"""
