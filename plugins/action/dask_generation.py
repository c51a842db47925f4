# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sends plugins, and the uv that installs them, to a host that completes a generation of its environment."""

from __future__ import annotations

from ansible_collections.flotilla.dask.plugins.module_utils._environments import file_of, item_of
from ansible_collections.flotilla.dask.plugins.plugin_utils.supplies import (
    Files,
    Options,
    SupplyingAction,
    fetched,
    resolved,
)


class ActionModule(SupplyingAction):
    """The controller's half of M(flotilla.dask.dask_generation)."""

    def gather(self, options: Options, needs: Options) -> tuple[Files, Options]:
        files, more = super().gather(options, needs)
        plugins = options["plugins"]
        files.update({each["file"]: each["archive"] for each in plugins if each.get("archive")})
        requirements = [each["requirement"] for each in plugins if each.get("requirement")]
        if requirements and options.get("download_on") == "controller":
            wheels = resolved(requirements, "", needs["python"], self.controller, words=("--no-deps",))
            items = [item_of(each, wheelhouse=self.controller["wheelhouse"]) for each in wheels]
            files.update(fetched(items, self.controller))
            more["resolved"] = [{**each, "file": file_of(each)} for each in wheels]
        return files, more
