# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The launch plan: from inventory variables to one process description per scheduler and worker process.

Pure Python without I/O. ``plan.launch_plan`` is the way in; everything else is its vocabulary. Imports nothing by
itself, as modules on hosts need only ``layout``. Private to this collection.
"""
