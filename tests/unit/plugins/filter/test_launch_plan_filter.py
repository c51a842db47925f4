# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filters, called by Ansible's own templating engine on variables as an inventory has them."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible.errors import AnsibleError
from ansible.template import trust_as_template

from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.tests.unit import samples

Render = t.Callable[..., t.Any]


def test_settings_that_are_templates_give_the_plan_of_what_they_stand_for(render: Render) -> None:
    values = samples.settings(dask_worker_groups=[samples.group(processes=trust_as_template("{{ cores }}"))])
    plan = render("{{ settings | flotilla.dask.launch_plan }}", settings=values, cores=3)
    expected = launch_plan(samples.settings(dask_worker_groups=[samples.group(processes=3)]))
    assert json.dumps(plan, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_promised_workers_are_those_of_the_groups_of_each_host(render: Render) -> None:
    groups = {"alpha": [samples.group()], "beta": None}
    assert render("{{ groups | flotilla.dask.promised_workers }}", groups=groups) == promised_workers(groups)


def test_what_the_plan_refuses_is_an_error_in_its_words(render: Render) -> None:
    with pytest.raises(AnsibleError) as caught:
        render("{{ settings | flotilla.dask.launch_plan }}", settings=samples.settings(dask_launcher="upstart"))
    allowed = "auto, systemd, supervisor, docker, swarm, batch"
    assert f"dask_launcher: 'upstart' is refused. Allowed: one of {allowed}." in str(caught.value)


@pytest.mark.parametrize("value", ["main", ["main"], None], ids=repr)
def test_what_is_no_mapping_is_refused(render: Render, value: t.Any) -> None:
    with pytest.raises(AnsibleError, match="launch_plan takes a mapping"):
        render("{{ settings | flotilla.dask.launch_plan }}", settings=value)
