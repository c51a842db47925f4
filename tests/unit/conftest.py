# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all unit tests share: Hypothesis' profile, and Ansible's own ways to find plugins and to render templates."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from hypothesis import settings

ROOT = Path(__file__).parents[2]

settings.register_profile("flotilla", deadline=None, database=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("flotilla")
init_plugin_loader([str(ROOT / "collections")])


class Render(t.Protocol):
    def __call__(self, template: str, **variables: t.Any) -> t.Any: ...


@pytest.fixture
def as_root() -> None:
    """For tests that need root, which alone can give files away. Where tests count, a skipped one has not passed."""
    if os.geteuid():
        pytest.skip("only root can give a directory away")


@pytest.fixture(scope="session")
def root() -> Path:
    """The collection's directory."""
    return ROOT


@pytest.fixture(scope="session")
def render() -> Render:
    """Renders text with Ansible's templating engine."""

    def call(template: str, **variables: t.Any) -> t.Any:
        return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(template))

    return call


@pytest.fixture(scope="session")
def render_role_template(root: Path, render: Render) -> Render:
    """Renders a template of the role dask_common as the action plugin of dask_processes does."""

    def call(template: str, **variables: t.Any) -> t.Any:
        return render((root / "roles/dask_common/templates" / template).read_text(), **variables)

    return call
