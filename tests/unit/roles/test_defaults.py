# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of every role are said in three places, which have to agree."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).parents[3] / "roles"
PUBLIC = ("dask_environment", "dask_image", "dask_scheduler", "dask_swarm", "dask_worker")
FALL_BACK = re.compile(r"\{\{ (?P<variable>dask_\w+) \| default\((?P<value>.*)\) \}\}")


def defaults(role: str) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text()) or {})


def options(role: str) -> dict[str, t.Any]:
    """The options of all entry points of a role."""
    specs = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    return {name: option for entry in specs.values() for name, option in (entry.get("options") or {}).items()}


def fall_back(value: t.Any) -> tuple[str, t.Any] | None:
    """The collection-wide variable that a default takes, and what it is without it."""
    match = FALL_BACK.fullmatch(value) if isinstance(value, str) else None
    return (match["variable"], yaml.safe_load(match["value"])) if match else None


def literal(value: t.Any) -> t.Any:
    found = fall_back(value)
    return found[1] if found else value


@pytest.mark.parametrize("role", sorted(path.name for path in ROLES.iterdir()))
def test_a_role_documents_exactly_the_variables_that_it_has_with_their_defaults(role: str) -> None:
    documented = {name: option["default"] for name, option in options(role).items() if not option.get("required")}
    assert documented == {name: literal(value) for name, value in defaults(role).items()}
    assert all(name.startswith(role + "_") for name in options(role))


def test_what_roles_share_falls_back_to_the_default_of_the_role_that_owns_it() -> None:
    owned = {name: value for role in PUBLIC for name, value in defaults(role).items()}
    shared = dict(filter(None, map(fall_back, defaults("dask_common").values())))
    assert {name: value for name, value in shared.items() if name in owned} == owned


def test_a_shared_variable_has_the_same_name_within_the_role_that_shares_it() -> None:
    for name, value in defaults("dask_common").items():
        if found := fall_back(value):
            assert name == found[0].replace("dask_", "dask_common_", 1)


def test_what_roles_look_for_on_a_host_is_what_the_plan_asks_it() -> None:
    files = ("dask_common/vars/main", "dask_monitoring/vars/main", "dask_proxy/vars/main", "dask_proxy/vars/Debian")
    found: dict[str, t.Any] = {}
    for file in files:
        found.update(yaml.safe_load((ROLES / f"{file}.yml").read_text()))
    drop_in = found["_dask_monitoring_dropin"].replace("{{ _dask_monitoring_dropins }}", "{dropins}")
    unit, drop_ins = found["_dask_monitoring_unit"], found["_dask_monitoring_dropins"]
    drop_ins = drop_ins.replace("{{ _dask_monitoring_unit }}", unit)
    assert set(found["_dask_common_paths"]) == {
        "/etc/debian_version",
        found["_dask_monitoring_program"],
        found["_dask_monitoring_enabled"].replace("{{ _dask_monitoring_unit }}", unit),
        drop_in.format(dropins=drop_ins),
        found["_dask_proxy_unit"],
        found["_dask_proxy_modules"][-1],
        *re.findall(r"'(/[^']+)'", found["_dask_proxy_traefik"]),
    }
    directory = found["_dask_proxy_directory"]
    assert found["_dask_common_units"] == {
        Path(found["_dask_proxy_unit"]).name: {"restart": [f"{directory}/traefik.yml"]},
        unit: {"reload": [f"{found['_dask_monitoring_directory']}/{each}" for each in ("*.yml", "*/*.yml")]},
    }
    certificate = found["_dask_proxy_certificate"].replace("{{ _dask_proxy_directory }}", directory)
    assert set(found["_dask_common_texts"]) == {f"{directory}/*.json", certificate}
