# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters that carry inventory variables into the launch plan, and the plan into launchers' files.

Ansible loads all filters of a collection anew in each process that uses one of them. So each filter imports its part of
the planner when it is called.
"""

from __future__ import annotations

import importlib
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils.launch import quoting

PLANNER = "ansible_collections.flotilla.dask.plugins.module_utils.launch"


def _part(module: str, function: str) -> t.Callable[[t.Any], t.Any]:
    """Returns a function of the planner as a filter, with the collection's errors as Ansible's. It takes a mapping."""

    def call(value: t.Any) -> t.Any:
        if not isinstance(value, t.Mapping):
            raise AnsibleFilterError("{0} takes a mapping, not {1!r}".format(function, value))
        try:
            return getattr(importlib.import_module(PLANNER + "." + module), function)(_plain(value))
        except DaskError as error:
            raise AnsibleFilterError(str(error)) from error

    return call


def _plain(value: t.Any) -> t.Any:
    """Builtin containers instead of Ansible's lazy ones, with everything in them templated."""
    if isinstance(value, t.Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def scrape_targets(endpoints: t.Any, cluster: str) -> t.Any:
    """Returns what Prometheus reads of a cluster's processes; see ``launch.monitoring.scrape_targets``."""
    return importlib.import_module(PLANNER + ".monitoring").scrape_targets(endpoints, cluster)


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "cluster_endpoints": _part("front", "cluster_endpoints"),
            "cluster_members": _part("members", "cluster_members"),
            "firewall_rules": _part("firewall", "firewall_rules"),
            "firewall_sources": _part("firewall", "firewall_sources"),
            "launch_plan": _part("plan", "launch_plan"),
            "launch_secrets": _part("settings", "launch_secrets"),
            "monitoring_plan": _part("monitoring", "monitoring_plan"),
            "pipeline_plan": _part("pipeline", "pipeline_plan"),
            "promised_workers": _part("plan", "promised_workers"),
            "proxy_site": _part("proxy", "proxy_site"),
            "scrape_targets": scrape_targets,
            "supervisor_word": quoting.supervisor_word,
            "systemd_value": quoting.systemd_value,
            "systemd_word": quoting.systemd_word,
        }
