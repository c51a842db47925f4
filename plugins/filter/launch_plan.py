# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters that carry inventory variables into the launch plan, and the plan into launchers' files."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils.launch import quoting
from ansible_collections.flotilla.dask.plugins.module_utils.launch.firewall import firewall_rules, firewall_sources
from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.plugins.module_utils.launch.monitoring import monitoring_plan, scrape_targets
from ansible_collections.flotilla.dask.plugins.module_utils.launch.pipeline import pipeline_plan
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.plugins.module_utils.launch.proxy import proxy_site


def _in_words(function: t.Callable[[t.Mapping[str, t.Any]], t.Any]) -> t.Callable[[t.Any], t.Any]:
    """Turns the collection's errors into Ansible's, and refuses anything but a mapping."""

    def call(value: t.Any) -> t.Any:
        if not isinstance(value, t.Mapping):
            raise AnsibleFilterError("{0} takes a mapping, not {1!r}".format(function.__name__, value))
        try:
            return function(_plain(value))
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


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "cluster_endpoints": _in_words(cluster_endpoints),
            "firewall_rules": _in_words(firewall_rules),
            "firewall_sources": _in_words(firewall_sources),
            "launch_plan": _in_words(launch_plan),
            "monitoring_plan": _in_words(monitoring_plan),
            "pipeline_plan": _in_words(pipeline_plan),
            "promised_workers": _in_words(promised_workers),
            "proxy_site": _in_words(proxy_site),
            "scrape_targets": scrape_targets,
            "supervisor_word": quoting.supervisor_word,
            "systemd_value": quoting.systemd_value,
            "systemd_word": quoting.systemd_word,
        }
