#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_image
short_description: Records the images that are brought to a host, and removes those (internal)
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Looks for the image that a cluster's containers run, and records which images were brought to the host for it.
  - Removes recorded images alone, by their identity and never by force. One that containers use, that other images are
    built upon or that has another name too stays.
  - Only the roles of this collection use it.
options:
  directory:
    description: The plan's directory of the software, where the record is.
    type: path
    required: true
  name:
    description: Name of the image. Needed unless O(state=absent).
    type: str
    default: ""
  state:
    description:
      - With V(wanted) an image that is not here is recorded as one that is about to be brought.
      - With V(brought) the image is here. It is recorded, and images that came before the previous one are removed.
      - With V(absent) all recorded images are removed.
    type: str
    choices: [wanted, brought, absent]
    default: wanted
extends_documentation_fragment:
  - flotilla.dask.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Look whether the host has the image
  flotilla.dask.dask_image:
    directory: /opt/dask/main
    name: flotilla-dask:0123456789ab
"""

RETURN = r"""
here:
  description: Whether the image is on the host.
  returned: O(state) is V(wanted) or V(brought)
  type: bool
environment:
  description: Name of the environment that the image was made from; empty where there is none.
  returned: O(state) is V(wanted) or V(brought)
  type: str
stage:
  description: What an image that is built is labelled with while it is.
  returned: O(state=wanted), not in check mode, and the image is not here
  type: str
kept:
  description: In a sentence each, the images that stay although they are needed no longer, and why.
  returned: O(state) is V(brought) or V(absent)
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._images import (
    LEAVING_SECONDS,
    Images,
    environment_of,
    inspect_image,
)

LATEST = 2
"""Images that stay when a new one comes: that one, and the one before, which the cluster runs until it is replaced."""


def look(images: Images, name: str, check_mode: bool) -> dict[str, t.Any]:
    """Looks for an image. Where it is missing, it is recorded as one that is about to come."""
    unsettled = images.is_unsettled()
    if unsettled and not check_mode:
        images.settle()
    found = inspect_image(name)
    outcome = {
        "changed": unsettled,
        "here": found is not None,
        "environment": environment_of(found) if found else "",
    }
    if found is None:
        outcome["changed"] = True
        if not check_mode:
            outcome["stage"] = images.expect(name)
    return outcome


def record(images: Images, name: str, check_mode: bool) -> dict[str, t.Any]:
    """Records an image that is here. :raises DaskError: it is not, and not for check mode alone."""
    found = inspect_image(name)
    if check_mode:
        return {"changed": found is None or images.is_unsettled(), "here": found is not None}
    changed = images.is_unsettled()
    if found is None:
        raise DaskError("Image {0} is not on this host, although it was brought here. Run the task again.".format(name))
    kept = images.remove(names=(name,), latest=LATEST)
    return {"changed": changed, "here": True, "environment": environment_of(found), "kept": kept}


def remove(images: Images, check_mode: bool) -> dict[str, t.Any]:
    """Removes all recorded images, and the record."""
    changed, kept = not images.is_empty(), []
    if changed and not check_mode:
        kept = images.remove(patience=LEAVING_SECONDS)
        images.forget()
    return {"changed": changed, "kept": kept}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "name": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["wanted", "brought", "absent"], "default": "wanted"},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        images = Images(options["directory"])
        if options["state"] == "absent":
            outcome = remove(images, module.check_mode)
        else:
            do = look if options["state"] == "wanted" else record
            outcome = do(images, options["name"], module.check_mode)
    except (DaskError, OSError) as error:
        module.fail_json(msg=str(error))
    for sentence in outcome.get("kept", []):
        module.warn(sentence)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
