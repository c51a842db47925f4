# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What users set once for the whole group of modules reaches every module that looks at a cluster, and no other."""

from __future__ import annotations

import typing as t
from pathlib import Path

import yaml
from ansible.parsing.plugin_docs import read_docstring

FRAGMENT = "flotilla.dask.attributes.cluster"


def fragments(module: Path) -> t.Sequence[str]:
    documentation = read_docstring(str(module))["doc"]
    return t.cast("t.Sequence[str]", documentation.get("extends_documentation_fragment", []))


def test_the_action_group_is_the_modules_that_look_at_a_cluster(root: Path) -> None:
    groups = yaml.safe_load((root / "meta" / "runtime.yml").read_text())["action_groups"]
    looking = [path.stem for path in (root / "plugins" / "modules").glob("*.py") if FRAGMENT in fragments(path)]
    assert sorted(groups["dask"]) == sorted(looking)
