# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files are fetched whole and verified, and a refusal says what is wrong and where."""

from __future__ import annotations

import base64
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._downloads import (
    DownloadError,
    Item,
    cache_directory,
    fetch,
    file_name,
)

CONTENT = b"a package"
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a b-1-0.conda").write_bytes(CONTENT)
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def item(source: Path, **changes: str) -> Item:
    return Item(**{"file": "a b-1-0.conda", "url": (source / "a b-1-0.conda").as_uri(), "sha256": SHA256, **changes})


@pytest.mark.parametrize("known", [{}, {"sha256": "", "md5": MD5}])
def test_a_file_arrives_and_is_not_fetched_again(source: Path, target: Path, known: dict[str, str]) -> None:
    fetch([item(source, **known)], str(target))
    assert (target / "a b-1-0.conda").read_bytes() == CONTENT
    (source / "a b-1-0.conda").unlink()
    fetch([item(source, **known)], str(target))


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {"sha256": "", "md5": "0" * 32}])
def test_another_file_is_refused_and_leaves_nothing(source: Path, target: Path, known: dict[str, str]) -> None:
    with pytest.raises(DownloadError, match=r"a b-1-0.conda is refused: its (sha256|md5) is .*, not 0+ as locked"):
        fetch([item(source, **known)], str(target))
    assert list(target.iterdir()) == []


def test_a_damaged_file_that_was_there_is_fetched_again(source: Path, target: Path) -> None:
    target.mkdir()
    (target / "a b-1-0.conda").write_bytes(b"damaged")
    fetch([item(source)], str(target))
    assert (target / "a b-1-0.conda").read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_told_with_what_to_do(source: Path, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"no-1-0.conda cannot be fetched: .*No such file.* dask_conda_mirror"):
        fetch([item(source, url=(source / "no-1-0.conda").as_uri())], str(target))


def test_an_authority_is_trusted_when_it_is_named_and_only_then(
    source: Path, target: Path, https_server: str, authority: Path
) -> None:
    wanted = item(source, url=https_server + "/source/a%20b-1-0.conda")
    with pytest.raises(DownloadError, match=r"certificate verify failed.* name its authority in dask_ca_bundle"):
        fetch([wanted], str(target))
    fetch([wanted], str(target), str(authority))
    assert (target / "a b-1-0.conda").read_bytes() == CONTENT


def test_names_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_name("https://c.example/lab/noarch/a%2Bb-1-0.conda?x=1#md5") == "a+b-1-0.conda"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert (cache_directory(), cache_directory("/own")) == ("/caches/flotilla-dask", "/own")


def test_the_index_that_wants_a_log_in_gets_it_for_its_files_and_no_other_server_does(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = "Basic " + base64.b64encode(b"alice:p@ss word").decode()
    seen = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *words: object) -> None:
            super().__init__(*words, directory=str(source))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            if seen[-1] == wanted:
                super().do_GET()
            else:
                self.send_error(401)

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = "127.0.0.1:{0}".format(server.server_port)
        url = f"http://{address}/a%20b-1-0.conda"
        monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://alice:p%40ss%20word@{address}/simple")
        fetch([item(source, url=url)], str(target))
        assert seen == [wanted]
        monkeypatch.setenv("PIP_INDEX_URL", "http://alice:p%40ss%20word@other.example/simple")
        with pytest.raises(DownloadError, match="wants a user and a password"):
            fetch([item(source, url=url)], str(target / "other"))
        assert seen[1:] == [None]
        server.shutdown()
