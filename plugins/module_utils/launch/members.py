# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hosts have a cluster, also those that the inventory no longer declares. Pure; private to this collection.

Every host of a cluster keeps the list, in a file of its configuration directory. A host that leaves the inventory
groups stays in the list until the playbook ``remove_host`` has removed the cluster from it.
"""

from __future__ import annotations

import json
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import MEMBERS

Members = t.Dict[str, t.Dict[str, t.Any]]
"""Host's name to its ``address``, empty where it is not known, and whether it is ``declared``."""


def cluster_members(settings: t.Mapping[str, t.Any]) -> Members:
    """Returns the hosts that have a cluster, or get it by this run.

    :param settings: ``declared``: names of the hosts that the inventory declares; ``dask_host_address`` and ``found``:
        host's name to the address that the inventory gives it, and to the one that was found out there, empty if none;
        ``recorded``: what a host of the cluster wrote down last; ``removed``: name of a host to leave out, or nothing.
    :raises DaskError: the record is not what the collection wrote.
    """
    recorded = _checked(settings.get("recorded") or {}, MEMBERS)
    said, found = settings.get("dask_host_address") or {}, settings.get("found") or {}
    members = {name: {**each, "declared": False} for name, each in recorded.items()}
    for name in settings["declared"]:
        known = members.get(name, {}).get("address", "")
        members[name] = {"address": said.get(name) or found.get(name) or known, "declared": True}
    return {name: members[name] for name in sorted(members) if name != settings.get("removed")}


def undeclared(members: Members) -> dict[str, str]:
    """Returns the addresses of the hosts that are no longer declared, by their names."""
    return {name: each["address"] for name, each in members.items() if not each["declared"]}


def parse_members(text: str | None, path: str) -> Members:
    """Returns what a host wrote down; nothing, where it has not.

    :param text: The text of the file; None where there is none.
    :raises DaskError: it is not what the collection wrote.
    """
    try:
        return _checked(json.loads(text), path) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise DaskError(_REFUSED.format(path)) from error


_REFUSED = (
    "{0} is refused: it is not what the collection wrote. It lists the hosts that have the cluster. Remove it; "
    "flotilla.dask.site writes it anew, with the hosts that the inventory declares alone."
)


def _checked(value: t.Any, path: str) -> Members:
    if not isinstance(value, dict) or not all(map(_is_member, value.items())):
        raise DaskError(_REFUSED.format(path))
    return value


def _is_member(entry: tuple[t.Any, t.Any]) -> bool:
    """Names and addresses are shown to people, and so have no characters that a terminal acts on."""
    name, each = entry
    words = [name, each.get("address")] if isinstance(each, dict) else [None]
    return all(isinstance(word, str) and word.isprintable() for word in words) and isinstance(
        each.get("declared"), bool
    )
