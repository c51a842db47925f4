# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads a lock on the controller, and sends the packages that a host lacks."""

from __future__ import annotations

from ansible_collections.flotilla.dask.plugins.module_utils._locks import parse_lock
from ansible_collections.flotilla.dask.plugins.plugin_utils.supplies import Files, Options, SupplyingAction


class ActionModule(SupplyingAction):
    """The controller's half of M(flotilla.dask.conda_environment)."""

    def complete(self, options: Options) -> Options:
        lock = options.get("lock")
        if not lock:
            return options
        text = str(self._loader.get_text_file_contents(self._find_needle("files", lock)))
        return {**options, "packages": parse_lock(text, str(lock)).as_dict()["packages"]}

    def gather(self, options: Options, needs: Options) -> tuple[Files, Options]:
        files, more = super().gather(options, needs)
        files.update(self.packages(options, needs))
        return files, more
