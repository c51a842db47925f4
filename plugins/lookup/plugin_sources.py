# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: plugin_sources
short_description: Plugin packages, packed for the hosts and identified by their content
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Takes packages that lie on the controller, or requirements that the hosts fetch, and returns what to install.
  - A directory is packed as a source distribution. The digest is over the content, so that the same package gives the
    same environment wherever the checkout lies, and an edited one gives a new environment.
options:
  _terms:
    description:
      - The directory of a package with a C(pyproject.toml) or C(setup.py), or the path of a wheel or source
        distribution; relative paths are looked up as in other lookups. Without a C(/) it is a requirement such as
        V(mylab-tools==2.1).
    required: true
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: See what would be installed
  ansible.builtin.debug:
    msg: "{{ query('flotilla.dask.plugin_sources', '/srv/plugins/wordcount', 'mylab-tools==2.1') }}"
"""

RETURN = r"""
_raw:
  description:
    - For each plugin its C(digest), and either C(archive) (a file on the controller) with the C(file) name that it
      should have on the host, or a C(requirement).
  type: list
  elements: dict
"""

import hashlib
import os
import tarfile
import tempfile
import typing as t

from ansible import constants
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

LEFT_OUT = {"__pycache__", "node_modules"}
LEFT_OUT_AT_THE_TOP = {"build", "dist"}
ALLOWED = (
    "Allowed: a list of packages' directories, wheels, source distributions, and requirements without '/', such as "
    "mylab==1.0"
)
PROJECT_FILES = ("pyproject.toml", "setup.py")


def project_files(directory: str) -> list[str]:
    """Returns the files of a package, relative to it and sorted; caches, builds and hidden files are left out."""
    found = []
    for folder, folders, names in os.walk(directory):
        left_out = LEFT_OUT | (LEFT_OUT_AT_THE_TOP if folder == directory else set())
        folders[:] = sorted(
            name
            for name in folders
            if name not in left_out and not name.startswith(".") and not name.endswith(".egg-info")
        )
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                raise AnsibleLookupError(
                    "dask_environment_plugins: '{0}' is refused: it is a link to a directory, which would not be in "
                    "the package. Put the directory itself there.".format(os.path.join(folder, name))
                )
        found += [os.path.relpath(os.path.join(folder, name), directory) for name in names if name[0] != "."]
    return sorted(found)


def content_digest(root: str, names: t.Iterable[str]) -> str:
    """Returns 12 hexadecimal digits over the names and contents of files."""
    digest = hashlib.sha256()
    for name in names:
        with open(os.path.join(root, name), "rb") as file:
            content = file.read()
        digest.update("{0}\0{1}\0".format(name, len(content)).encode() + content)
    return digest.hexdigest()[:12]


def pack(root: str, names: t.Iterable[str], archive: str) -> None:
    """Writes a source distribution, under a name of its own first: several hosts' tasks come here at once."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(archive))
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in names:
            tar.add(os.path.join(root, name), arcname=os.path.join(os.path.basename(root), name))
    os.replace(temporary, archive)


def _checked(term: t.Any) -> str:
    if isinstance(term, str) and term.strip() and term.isprintable():
        return str(term)
    raise AnsibleLookupError("dask_environment_plugins: {0!r} is refused. {1}.".format(term, ALLOWED))


def _refuse_other_than_requirement(term: str) -> None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        Requirement(term)
    except InvalidRequirement as error:
        raise AnsibleLookupError("dask_environment_plugins: {0!r} is refused. {1}.".format(term, ALLOWED)) from error


class LookupModule(LookupBase):
    """Packs plugin packages."""

    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[dict[str, str]]:
        self.set_options(var_options=variables, direct=kwargs)
        # A list, as a variable has it, counts as its elements.
        flat = [each for term in terms for each in (term if isinstance(term, (list, tuple)) else [term])]
        return [self._source(_checked(term), variables or {}) for term in flat]

    def _source(self, term: str, variables: dict[str, t.Any]) -> dict[str, str]:
        if "/" not in term:
            _refuse_other_than_requirement(term)
            return {"requirement": term, "digest": term}
        path = self.find_file_in_search_path(variables, "files", os.path.expanduser(term), ignore_missing=True)
        if not path:
            raise AnsibleLookupError(
                "dask_environment_plugins: '{0}' is refused: no such file or directory on the controller. {1}.".format(
                    term, ALLOWED
                )
            )
        path = os.path.realpath(path)
        name = os.path.basename(path)
        if os.path.isfile(path):
            return {"archive": path, "file": name, "digest": content_digest(os.path.dirname(path), [name])}
        if not any(os.path.isfile(os.path.join(path, project)) for project in PROJECT_FILES):
            raise AnsibleLookupError(
                "dask_environment_plugins: '{0}' is refused: it has no {1}, so it isn't a package that pip can "
                "install.".format(term, " or ".join(PROJECT_FILES))
            )
        files = project_files(path)
        digest = content_digest(path, files)
        # The x keeps digits from being taken for a version, which would have to be the package's.
        archive = os.path.join(constants.DEFAULT_LOCAL_TMP, "{0}-x{1}.tar.gz".format(name, digest))
        if not os.path.exists(archive):
            pack(path, files, archive)
        return {"archive": archive, "file": os.path.basename(archive), "digest": digest}
