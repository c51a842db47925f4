# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks are read as they were written, by us and by others, and identify an environment by its packages alone."""

from __future__ import annotations

import random
import typing as t

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._locks import (
    PLATFORMS,
    Lock,
    LockError,
    Package,
    Specification,
    channel_path,
    difference,
    dump_lock,
    listed,
    parse_lock,
    parse_specification,
    pypi_name,
)

NAMES = st.from_regex(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)?", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
MD5 = st.text("0123456789abcdef", min_size=32, max_size=32)


@st.composite
def packages(draw: st.DrawFn, platforms: t.Sequence[str] = PLATFORMS) -> Package:
    name, version, platform = draw(NAMES), draw(VERSIONS), draw(st.sampled_from(platforms))
    subdir = draw(st.sampled_from([platform, "noarch"]))
    conda = draw(st.booleans())
    file = f"{subdir}/{name}-{version}-py_0.conda" if conda else f"{name}-{version}-py3-none-any.whl"
    return Package(
        name=name,
        version=version,
        platform=platform,
        url="https://channels.example/lab/" + file,
        manager="conda" if conda else "pip",
        md5=draw(MD5) if conda else "",
        sha256=draw(SHA256),
        dependencies=draw(st.dictionaries(NAMES, st.sampled_from(["", ">=1.0", "1.* *_cp311"]), max_size=2)),
    )


def lock_of(found: t.Iterable[Package]) -> Lock:
    kept = {(each.platform, each.manager, each.name): each for each in found}
    ordered = sorted(kept.values(), key=lambda each: (each.platform, each.manager, each.name, each.url))
    platforms = tuple(sorted({each.platform for each in ordered}))
    return Lock(tuple(ordered), platforms, ("lab", "conda-forge"), dict.fromkeys(platforms, "abc"))


LOCKS = st.lists(packages(), max_size=8).map(lock_of)


@given(LOCKS)
def test_a_lock_is_read_as_it_was_written(lock: Lock) -> None:
    assert parse_lock(dump_lock(lock, "environment.yml"), "lock") == lock


@given(LOCKS, st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_order_or_origin(lock: Lock, shuffle: random.Random) -> None:
    found = [
        Package(**{**vars(each), "url": each.url.replace("channels.example/lab", "mirror.example/conda/lab")})
        for each in lock.packages
    ]
    shuffle.shuffle(found)
    assert Lock(tuple(found), lock.platforms).digest() == lock.digest()


@given(st.lists(packages(), min_size=1, max_size=8).map(lock_of), st.data())
def test_any_other_package_gives_another_digest(lock: Lock, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(lock.packages) - 1))
    found = list(lock.packages)
    change = data.draw(st.sampled_from(["removed", "other content"]))
    if change == "removed":
        del found[index]
    else:
        found[index] = Package(**{**vars(found[index]), "sha256": "f" * 63 + "0"})
        if found[index] == lock.packages[index]:
            return
    assert Lock(tuple(found), lock.platforms).digest() != lock.digest()


@given(st.lists(packages(("linux-64",)), min_size=1, max_size=8).map(lock_of))
def test_an_explicit_lock_of_the_same_packages_is_the_same_environment(lock: Lock) -> None:
    conda = tuple(each for each in lock.packages if each.manager == "conda")
    lines = ["# platform: linux-64", "@EXPLICIT", *(f"{each.url}#sha256:{each.sha256}" for each in conda)]
    found = parse_lock("\n".join(lines), "explicit.txt")
    assert found.explicit
    assert found.digest() == Lock(conda).digest()
    assert listed(found.packages) == listed(conda)


def test_hashes_of_explicit_locks_are_told_apart_by_their_length_where_nothing_else_does() -> None:
    urls = [f"https://channels.example/lab/linux-64/{name}-1.0-0.tar.bz2" for name in ("a", "b", "c")]
    text = f"@EXPLICIT\n{urls[0]}#{'0' * 32}\n{urls[1]}#{'1' * 64}\n\n{urls[2]}#md5:{'2' * 32}\n"
    assert [(each.name, each.md5, each.sha256) for each in parse_lock(text, "explicit.txt").packages] == [
        ("a", "0" * 32, ""),
        ("b", "", "1" * 64),
        ("c", "2" * 32, ""),
    ]


@given(LOCKS, LOCKS)
def test_a_difference_leads_from_one_list_to_the_other(before: Lock, after: Lock) -> None:
    old, new = (dict(line.split(" ") for line in listed(lock.packages)) for lock in (before, after))
    steps = difference([f"{name} {version}" for name, version in old.items()], [f"{n} {v}" for n, v in new.items()])
    result = dict(old)
    for line in steps["removed"]:
        assert result.pop(line.split(" ")[0]) == line.split(" ")[1]
    for line in steps["added"]:
        assert result.setdefault(line.split(" ")[0], line.split(" ")[1]) == line.split(" ")[1]
    for line in steps["changed"]:
        name, old_version, _arrow, new_version = line.split(" ")
        assert (result[name], old_version != new_version) == (old_version, True)
        result[name] = new_version
    assert result == new


REFUSED_LOCKS = {
    "no lock": ("name: x", "it isn't a lock file"),
    "no YAML": ("a: [", "it isn't YAML"),
    "other version": ("version: 4\npackage: []", "it isn't a lock file"),
    "package without a hash": (
        yaml.safe_dump(
            {
                "version": 1,
                "package": [
                    {
                        "name": "a",
                        "version": "1",
                        "manager": "conda",
                        "platform": "linux-64",
                        "url": "https://x/a-1-0.conda",
                    }
                ],
            }
        ),
        "no hash that its file can be verified by",
    ),
    "half a package": (yaml.safe_dump({"version": 1, "package": [{"name": "a"}]}), "{'name': 'a'} is refused"),
    "explicit without a hash": ("@EXPLICIT\nhttps://x.example/c/linux-64/a-1-0.conda", "no hash"),
    "explicit with another file": ("@EXPLICIT\nhttps://x.example/a-1.zip#00", "the address of a conda package"),
    "explicit for two platforms": (
        "@EXPLICIT\n" + "\n".join(f"https://x.example/c/{each}/a-1-0.conda#{'0' * 32}" for each in PLATFORMS[:2]),
        "its packages are for 2 platforms",
    ),
}


@pytest.mark.parametrize(("text", "words"), REFUSED_LOCKS.values(), ids=REFUSED_LOCKS)
def test_what_cannot_be_installed_and_verified_is_refused(text: str, words: str) -> None:
    with pytest.raises(LockError) as caught:
        parse_lock(text, "the-lock")
    assert "the-lock" in str(caught.value)
    assert words in str(caught.value)
    assert "Allowed: " in str(caught.value) or "YAML" in words


def test_packages_for_development_only_are_left_out() -> None:
    package = {"name": "a", "version": "1", "manager": "conda", "platform": "linux-64", "hash": {"md5": "0" * 32}}
    entries = [
        {**package, "url": "https://x.example/c/linux-64/a-1-0.conda", "category": category, "optional": optional}
        for category, optional in (("main", False), ("dev", True))
    ]
    assert len(parse_lock(yaml.safe_dump({"version": 1, "package": entries}), "lock").packages) == 1


def test_an_environment_is_read() -> None:
    text = """
        name: lab
        channels: [conda-forge, nodefaults]
        dependencies: [python >=3.11, dask, {pip: [mylab-tools==2.1]}]
    """
    found = Specification(("conda-forge",), ("python >=3.11", "dask"), ("mylab-tools==2.1",))
    assert parse_specification(text, "environment.yml") == found


@given(st.lists(NAMES, min_size=1, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_requirements_has_no_meaning_and_that_of_channels_has(
    names: list[str], shuffle: random.Random
) -> None:
    mixed = list(names)
    shuffle.shuffle(mixed)
    one, other = (Specification(("a", "b"), tuple(order), tuple(order)) for order in (names, mixed))
    assert one.hash_for("linux-64") == other.hash_for("linux-64")
    assert one.hash_for("linux-64") != one.hash_for("linux-aarch64")
    assert one.hash_for("linux-64") != Specification(("b", "a"), one.conda, one.pip).hash_for("linux-64")
    assert one.hash_for("linux-64") != Specification(one.channels, (*one.conda, "zzz"), one.pip).hash_for("linux-64")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("channels: [a]\ndependencies: [dask]\nvariables: {A: b}", "'variables' is refused. Allowed: the keys name"),
        ("channels: [a]", "dependencies is refused, as it is empty"),
        ("dependencies: [dask]", "channels is refused, as it is empty"),
        ("channels: [a]\ndependencies: [{pip: [-r other.txt]}]", "'-r other.txt' is refused"),
        ("channels: [a]\ndependencies: [{conda: [x]}]", "Allowed: requirements of conda"),
        ("channels: a\ndependencies: [x]", "Allowed: a list"),
        ("- a", "Allowed: an environment.yml with channels and dependencies"),
    ],
)
def test_an_environment_that_cannot_be_locked_is_refused(text: str, words: str) -> None:
    with pytest.raises(LockError) as caught:
        parse_specification(text, "lab.yml")
    assert str(caught.value).startswith("lab.yml")
    assert words in str(caught.value)


def test_packages_are_below_a_mirror_as_in_their_channel() -> None:
    assert channel_path("https://c.example/conda-forge/linux-64/a-1-0.conda") == "conda-forge/linux-64/a-1-0.conda"
    assert channel_path("https://r.example/pkgs/main/noarch/a-1-0.conda") == "pkgs/main/noarch/a-1-0.conda"
    assert channel_path("file:///srv/conda/lab/noarch/a-1-0.conda") == "lab/noarch/a-1-0.conda"


def test_python_packages_have_one_name_for_pip() -> None:
    assert [pypi_name(name) for name in ("Jinja2", "prometheus_client", "zope.interface", "msgpack-python")] == [
        "jinja2",
        "prometheus-client",
        "zope-interface",
        "msgpack",
    ]


@pytest.mark.parametrize(
    ("conda", "pip", "asked"),
    [
        (("dask",), (), ("dask", "prometheus_client")),
        (("prometheus-client >=0.20",), (), ("prometheus-client >=0.20",)),
        (("conda-forge::prometheus_client=0.20",), (), ("conda-forge::prometheus_client=0.20",)),
        (("python",), ("Prometheus.Client==0.20",), ("python",)),
        (("prometheus",), ("prometheus_client_extra",), ("prometheus", "prometheus_client")),
    ],
    ids=repr,
)
def test_what_an_environment_always_has_is_added_unless_it_is_asked_for(
    conda: tuple[str, ...], pip: tuple[str, ...], asked: tuple[str, ...]
) -> None:
    specification = Specification(("lab",), conda, pip)
    completed = specification.along_with(["prometheus_client"])
    assert completed == Specification(("lab",), asked, pip)
    assert completed.along_with(["prometheus_client"]) == completed
