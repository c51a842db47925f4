# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The launch plan: from inventory variables to one process description per scheduler and worker process.

Pure Python without I/O. ``launch_plan`` is the way in; everything else is its vocabulary. Private to this collection.
"""

from __future__ import annotations

from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers

__all__ = ["launch_plan", "promised_workers"]
