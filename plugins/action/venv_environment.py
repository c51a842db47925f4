# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finds out on the controller what requirements mean, and sends the packages that a host lacks."""

from __future__ import annotations

from ansible.module_utils.common.validation import check_type_list

from ansible_collections.flotilla.dask.plugins.module_utils._uv_solver import checked_requirements, refuse_options
from ansible_collections.flotilla.dask.plugins.plugin_utils.supplies import (
    Files,
    Options,
    SupplyingAction,
    resolved,
)


class ActionModule(SupplyingAction):
    """The controller's half of M(flotilla.dask.venv_environment)."""

    def gather(self, options: Options, needs: Options) -> tuple[Files, Options]:
        files, more = super().gather(options, needs)
        if "python" in needs:
            sources = options.get("download_on") != "controller"
            constraints = str(options.get("constraints") or "")
            refuse_options(constraints)
            requirements = checked_requirements(check_type_list(options["requirements"]))
            more["packages"] = resolved(requirements, constraints, needs["python"], self.controller, sources)
        else:
            files.update(self.packages(options, needs))
        return files, more
