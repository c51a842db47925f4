# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory of authorities and bundles: several runs at once, and runs that are killed at every point."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import typing as t
from dataclasses import replace
from pathlib import Path

import certificates
import pytest

from ansible_collections.flotilla.dask.plugins.filter.certificates import certificate_problem
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._exclusive import exclusive
from ansible_collections.flotilla.dask.plugins.plugin_utils import authority
from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import (
    PLACEHOLDER,
    Keeper,
    Wishes,
    check_key,
    fingerprints,
    read,
)

PASSPHRASE = "correct horse battery"
WISHES = Wishes("main", PASSPHRASE, "keep", 365, 30, 3650, ("alice",))


class Maker:
    """Makes certificates as quickly as it can, to be killed hundreds of times."""

    def make_key(self, curve: str = "", passphrase: str = "") -> str:
        assert curve == "secp384r1"
        self.identity = certificates.authority()
        return self.identity.key_text(passphrase)

    def make_authority(self, key: str, passphrase: str, name: str, days: int) -> str:
        assert (bool(key), bool(passphrase), name, days) == (True, True, "flotilla.dask main", 3650)
        return self.identity.certificate_text

    def issue(
        self, names: t.Sequence[str], usage: t.Sequence[str], days: int, authority: tuple[str, str] | None = None
    ) -> tuple[str, str]:
        assert authority
        assert usage == ["clientAuth"]
        signer = certificates.load_authority(Path(authority[0]), authority[1])
        found = certificates.issue(signer, names, days)
        return found.key_text(), found.certificate_text


def render(client: str, trusted: str, certificate: str, key: str) -> str:
    return f"client: {client}\n{trusted}\n{certificate}\n{key}\n"


def keeper(directory: Path, check_mode: bool = False, wait: float = 30) -> Keeper:
    return Keeper(str(directory), Maker(), render, check_mode, wait)


def keep(directory: Path, **changes: t.Any) -> Keeper:
    found = keeper(directory)
    found.keep(replace(WISHES, **changes))
    return found


def remove(directory: Path) -> None:
    keeper(directory).remove()


def bundle(directory: Path, client: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (directory / "clients" / client).iterdir()}


def listed(directory: Path, kind: str) -> set[str]:
    return {each["fingerprint"] for each in json.loads((directory / "issued.json").read_text())[kind]}


def check_what_is_there(directory: Path) -> None:
    """Every authority and every bundle is complete, and no key lies beside another one's certificate."""
    for place in directory.glob("ca-*"):
        check_key(str(directory), int(place.name[3:]), PASSPHRASE)
    for place in directory.glob("clients/[!.]*"):
        found = bundle(directory, place.name)
        assert set(found) == set(authority.BUNDLE)
        assert certificate_problem(found["client.crt"], found["client.key"]) == ""
        expected = render(place.name, found["ca.crt"].strip(), found["client.crt"].strip(), found["client.key"].strip())
        assert found["dask.yaml"] == expected
        assert set(fingerprints(found["client.crt"])) <= listed(directory, "bundles")
        assert (place.stat().st_mode & 0o777, (place / "client.key").stat().st_mode & 0o777) == (0o700, 0o600)


def check_is_complete(directory: Path, clients: t.Iterable[str] = ("alice",)) -> None:
    check_what_is_there(directory)
    names = {path.name for path in directory.iterdir()}
    assert names - {path.name for path in directory.glob("ca-*")} == {
        *(".gitignore", "clients", "issued.json", "issuer", "lock")
    }
    assert {path.name for path in directory.glob("clients/*")} == set(clients)
    found = read(str(directory))
    assert set(fingerprints(found.trusted)) <= listed(directory, "authorities")


def test_the_first_run_makes_everything_and_the_second_nothing(tmp_path: Path) -> None:
    clients = ("alice", "bob")
    made = keep(tmp_path / "new", clients=clients)
    check_is_complete(tmp_path / "new", clients)
    assert made.found == read(str(tmp_path / "new"))
    assert (list(made.found.certificates), made.found.issuer, made.found.clients) == ([1], 1, ["alice", "bob"])
    assert keep(tmp_path / "new", clients=clients).changes == []


def test_check_mode_says_what_is_to_come_and_makes_nothing(tmp_path: Path) -> None:
    predicted = keeper(tmp_path / "new", check_mode=True)
    predicted.keep(WISHES)
    assert not (tmp_path / "new").exists()
    assert (predicted.found.trusted, predicted.found.as_dict()["certificate"]) == (PLACEHOLDER, "")
    headers = [[each["after_header"] for each in found.changes] for found in (predicted, keep(tmp_path / "new"))]
    assert headers[0] == headers[1]
    for phase in ("renew", "trust"):
        predicted, before = keeper(tmp_path / "new", check_mode=True), sorted(tmp_path.rglob("*"))
        predicted.keep(replace(WISHES, phase=phase))
        assert sorted(tmp_path.rglob("*")) == before
        made = keep(tmp_path / "new", phase=phase)
        assert [each["after_header"] for each in predicted.changes] == [each["after_header"] for each in made.changes]


def test_authorities_take_over_from_each_other_and_bundles_keep_their_keys_while_they_can(tmp_path: Path) -> None:
    keep(tmp_path)
    first = bundle(tmp_path, "alice")
    keep(tmp_path, phase="trust")
    both = bundle(tmp_path, "alice")
    assert (both["client.key"], both["client.crt"]) == (first["client.key"], first["client.crt"])
    assert len(fingerprints(both["ca.crt"])) == 2
    keep(tmp_path, phase="issue")
    assert bundle(tmp_path, "alice")["client.key"] != first["client.key"]
    found = keep(tmp_path, phase="retire").found
    assert (list(found.certificates), found.issuer) == ([2], 2)
    assert set(fingerprints(first["ca.crt"])) < set(found.known)
    assert keep(tmp_path, phase="retire").changes == []
    check_is_complete(tmp_path)


def test_a_bundle_is_made_anew_where_something_is_wrong_with_it(tmp_path: Path) -> None:
    keep(tmp_path)
    place = tmp_path / "clients" / "alice"
    for spoil in (
        lambda: (place / "client.key").write_text(certificates.authority().key_text()),
        lambda: (place / "client.crt").write_text("cut sho"),
        lambda: (place / "client.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        lambda: (place / "client.key").unlink(),
        lambda: (place / "dask.yaml").write_text("scheduler-address: elsewhere"),
        lambda: shutil.rmtree(place),
    ):
        spoil()
        assert keep(tmp_path).changes
        check_is_complete(tmp_path)
        assert keep(tmp_path).changes == []


def test_a_key_that_is_not_the_authoritys_is_refused_in_words(tmp_path: Path) -> None:
    keep(tmp_path)
    (tmp_path / "ca-1" / "ca.key").write_text(certificates.authority().key_text(PASSPHRASE))
    with pytest.raises(DaskError, match=r"ca.key is refused: it is not the key of the certificate .*ca.crt"):
        keep(tmp_path)


def test_what_was_made_before_there_was_a_list_is_listed(tmp_path: Path) -> None:
    keep(tmp_path)
    before = {kind: listed(tmp_path, kind) for kind in ("authorities", "bundles")}
    (tmp_path / "issued.json").unlink()
    keep(tmp_path)
    assert {kind: listed(tmp_path, kind) for kind in before} == before


def test_the_list_tells_bundles_by_what_openssl_shows(tmp_path: Path) -> None:
    keep(tmp_path, clients=("alice",))
    [entry] = json.loads((tmp_path / "issued.json").read_text())["bundles"]
    shown = os.popen(f"openssl x509 -in {tmp_path}/clients/alice/client.crt -noout -serial -fingerprint -sha256").read()
    assert f"serial={entry['serial']}\n" in shown
    assert f"ingerprint={entry['fingerprint']}\n" in shown
    assert set(entry) == {"name", "serial", "fingerprint", "issued", "expires"}


def test_what_else_the_list_says_of_a_bundle_stays(tmp_path: Path) -> None:
    keep(tmp_path)
    path = tmp_path / "issued.json"
    record = json.loads(path.read_text())
    record["bundles"][0]["revoked"] = "2026-01-01T00:00:00Z"
    path.write_text(json.dumps(record))
    keep(tmp_path, phase="renew")
    remove(tmp_path)
    assert ["revoked" in each for each in json.loads(path.read_text())["bundles"]] == [True, False]


def test_a_list_that_is_damaged_is_refused_by_its_path(tmp_path: Path) -> None:
    keep(tmp_path)
    for text in ("[]", "{", '{"bundles": [7]}', '{"bundles": [{"name": "alice"}]}'):
        (tmp_path / "issued.json").write_text(text)
        with pytest.raises(DaskError, match=r"issued.json is refused"):
            keep(tmp_path)


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    (tmp_path / "lock").write_text("mine")
    calls: list[t.Callable[[Path], object]] = [keep, remove, lambda place: read(str(place))]
    for do in calls:
        with pytest.raises(
            DaskError, match=r"dask_certificates_directory: .* is refused: it has files, such as letter"
        ):
            do(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letter.txt", "lock"]


def test_what_is_of_somebody_else_beside_an_authority_stays(tmp_path: Path) -> None:
    keep(tmp_path)
    (tmp_path / ".gitignore").write_text("mine")
    for name in ("notes", ".notes.new", ".notes.old", "clients/README"):
        (tmp_path / name).write_text("mine")
    assert keep(tmp_path).changes == []
    remove(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".gitignore", ".notes.new", ".notes.old", "issued.json", "notes"}


def test_removal_keeps_the_list_alone_and_is_done_once(tmp_path: Path) -> None:
    keep(tmp_path)
    before = {kind: listed(tmp_path, kind) for kind in ("authorities", "bundles")}
    predicted = keeper(tmp_path, check_mode=True)
    predicted.remove()
    assert len(list(tmp_path.iterdir())) > 1
    found = keeper(tmp_path)
    found.remove()
    assert found.changes == predicted.changes != []
    assert [path.name for path in tmp_path.iterdir()] == ["issued.json"]
    assert {kind: listed(tmp_path, kind) for kind in before} == before
    for place in (tmp_path, tmp_path / "nowhere"):
        again = keeper(place)
        again.remove()
        assert again.changes == []
    keep(tmp_path)
    check_is_complete(tmp_path)
    assert before["bundles"] < listed(tmp_path, "bundles")


@pytest.mark.parametrize("runs", [2, 8])
def test_runs_at_the_same_moment_make_one_authority_and_one_bundle(tmp_path: Path, runs: int) -> None:
    def answer(place: Path) -> None:
        found = keep(place / "certificates", clients=("alice",))
        (place / f"answer-{os.getpid()}").write_text(found.found.trusted)

    start, go = os.pipe()
    children = []
    for _run in range(runs):
        child = os.fork()
        if not child:
            os.close(go)
            os.read(start, 1)  # until all are there
            _end_with(lambda: answer(tmp_path))
        children.append(child)
    os.close(go)
    os.close(start)
    assert [os.waitpid(child, 0)[1] for child in children] == runs * [0]
    directory = tmp_path / "certificates"
    assert {path.read_text() for path in tmp_path.glob("answer-*")} == {read(str(directory)).trusted}
    assert [path.name for path in directory.glob("ca-*")] == ["ca-1"]
    assert len(listed(directory, "bundles")) == 1
    check_what_is_there(directory)


def test_who_waits_too_long_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    keep(tmp_path)
    with exclusive(str(tmp_path / "lock"), 1, "test"), pytest.raises(DaskError) as refusal:
        keeper(tmp_path, wait=0.1).keep(WISHES)
    host = os.uname().nodename
    assert f"{tmp_path} is in use by another run: process {os.getpid()} on host {host}, since 20" in str(refusal.value)


def test_the_lock_of_a_run_that_was_killed_is_free(tmp_path: Path) -> None:
    keep(tmp_path)
    ready, say = os.pipe()
    child = os.fork()
    if not child:
        with exclusive(str(tmp_path / "lock"), 1, "test"):
            os.write(say, b".")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(DaskError, match=f"process {child} "):
        keeper(tmp_path, wait=0).keep(WISHES)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    keeper(tmp_path, wait=0).keep(WISHES)
    assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()


STEPS: dict[str, t.Callable[[Path], object]] = {
    "first": keep,
    "renew": lambda place: keep(place, phase="renew"),
    "trust": lambda place: keep(place, phase="trust"),
    "issue": lambda place: keep(place, phase="issue"),
    "retire": lambda place: keep(place, phase="retire"),
    "remove": remove,
}
BEFORE = {"first": [], "renew": ["first"], "trust": ["first"], "issue": ["first", "trust"], "remove": ["first"]}
BEFORE["retire"] = [*BEFORE["issue"], "issue"]


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_is_killed_before_any_of_its_steps_leaves_nothing_half_made(tmp_path: Path, step: str) -> None:
    """Kills before each file operation in turn, until a run gets to its end."""
    origin = tmp_path / "origin"
    for before in BEFORE[step]:
        STEPS[before](origin)
    for point in itertools.count(1):
        directory = tmp_path / str(point)
        if origin.exists():
            shutil.copytree(origin, directory, symlinks=True)
        status = _killed_at(point, STEPS[step], directory)
        check_what_is_there(directory)
        STEPS[step](directory)
        if step == "remove":
            assert [path.name for path in directory.iterdir()] == ["issued.json"]
        else:
            check_is_complete(directory)
            assert keep(directory).changes == []
        shutil.rmtree(directory)
        if os.WIFEXITED(status):
            assert status == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert point > 10


def _killed_at(point: int, step: t.Callable[[Path], object], directory: Path) -> int:
    """Returns how a process ended that did a step, and was killed before its ``point``-th file operation."""
    count = itertools.count(1)

    def hook(event: str, arguments: t.Any) -> None:
        changing = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod", "os.chown"}
        writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (event in changing or writing) and next(count) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        sys.addaudithook(hook)
        _end_with(lambda: step(directory))
    return os.waitpid(child, 0)[1]


def _end_with(do: t.Callable[[], object]) -> t.NoReturn:
    """Ends this process, a child, at once when it has done something."""
    code = 1
    try:
        do()
        code = 0
    finally:
        os._exit(code)
