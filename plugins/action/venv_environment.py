# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chooses the wheels of a virtual environment on the controller, and sends those that a host lacks."""

from __future__ import annotations

from ansible_collections.flotilla.dask.plugins.module_utils._downloads import Item
from ansible_collections.flotilla.dask.plugins.plugin_utils.supplies import (
    Files,
    Options,
    SupplyingAction,
    fetched,
    resolved,
)


class ActionModule(SupplyingAction):
    """The controller's half of M(flotilla.dask.venv_environment)."""

    def gather(self, options: Options, needs: Options) -> tuple[Files, Options]:
        files, more = super().gather(options, needs)
        if needs["wheels"]:
            wheels = resolved(
                options["requirements"], options.get("constraints") or "", needs["python"], self.controller
            )
            more["resolved"] = wheels
            if not self._task.check_mode:
                items = [Item.of_wheel(each) for each in wheels]
                files.update(fetched([each for each in items if each.file not in needs["have"]], self.controller))
        return files, more
