"""Builds the tool's own C programs with the system's compiler, when there is one."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
BUILD = HERE / "build"
FLAGS = ["-O2", "-Wall", "-Wextra"]


def compiler() -> str | None:
    """The system's C compiler: `$CC`, else `cc`; None when there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(name: str, *, zlib: bool = False) -> Path | None:
    """The program made of `<name>/*.c`, built again when a source is newer; None: no compiler.

    Raises CalledProcessError when the compiler refuses the source.
    """
    sources = sorted((HERE / name).glob("*.[ch]"))
    program = BUILD / name
    if program.exists() and program.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        return program
    cc = compiler()
    if cc is None:
        return None
    BUILD.mkdir(exist_ok=True)
    # Built aside and moved into place: another run may be starting the old one right now.
    with tempfile.TemporaryDirectory(dir=BUILD) as aside:
        made = Path(aside) / name
        inputs = [str(source) for source in sources if source.suffix == ".c"]
        attempts = [["-DHAVE_ZLIB", "-lz"], []] if zlib else [[]]
        for last, extra in enumerate(attempts, 1):
            done = subprocess.run(
                [cc, *FLAGS, "-o", str(made), *inputs, *extra],
                check=last == len(attempts),
                capture_output=last < len(attempts),
            )
            if done.returncode == 0:
                break
        made.replace(program)
    return program
