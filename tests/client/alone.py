"""The client with nothing but its own dependencies, and the oldest of them that it takes.

Run as a program (`make client-alone`): makes an environment in a temporary directory, installs
what the extra `client` of pyproject.toml names at its lowest, and this package without the rest.
There a client follows a server of this environment through a change and a cut. It is no part of
the suite because it installs.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]

FOLLOW = """
import asyncio, importlib.metadata, json, sys, urllib.request

from kalam_notify.client import Changed, Client, connect, connect_sync

for server in ("uvicorn", "uvloop", "starlette", "jwt", "prometheus_client"):
    try:
        importlib.metadata.version("PyJWT" if server == "jwt" else server)
    except importlib.metadata.PackageNotFoundError:
        continue
    raise SystemExit(f"{server} is installed: this environment proves nothing")

URL, TOKEN = sys.argv[1:]

def post(row):
    change = {"table": "app.alone", "change_type": "insert", "row_data": row}
    headers = {"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"}
    request = urllib.request.Request(URL + "/v1/changes", json.dumps(change).encode(), headers)
    urllib.request.urlopen(request, timeout=30).read()

async def main():
    await asyncio.to_thread(post, {"id": 1})
    async with asyncio.timeout(60), Client(URL, token=TOKEN) as client:
        rows = await client.subscribe("SELECT * FROM app.alone")
        await rows.until_ready()
        assert len(rows.view) == 1, rows.view
        for number in (2, 3):
            await asyncio.to_thread(post, {"id": number})
            async for event in rows:
                if isinstance(event, Changed):
                    break
            assert len(rows.view) == number, rows.view
            # The connection is cut: it comes back and resumes.
            client._socket.transport.abort()
    async with asyncio.timeout(60), connect(URL, token=TOKEN) as db:
        rows = await db.live("SELECT * FROM app.alone")
        await db.publish({"table": "app.alone", "change_type": "insert", "row_data": {"id": 4}})
        await rows.until(lambda held: len(held) == 4)

def in_a_thread():
    with connect_sync(URL, token=TOKEN) as db:
        assert [row["id"] for row in db.live("SELECT * FROM app.alone")] == [1, 2, 3, 4]
    print("the client works with websockets", importlib.metadata.version("websockets"))

asyncio.run(main())
in_a_thread()
"""


def oldest(requirement: str) -> str:
    """The lowest release of a requirement, whatever patch of it."""
    return requirement.replace(">=", "~=") + ".0"


def client_python(directory: Path) -> str:
    """An environment with the client's own dependencies; its interpreter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["optional-dependencies"]["client"]
    venv.create(directory, with_pip=True)
    python = str(directory / "bin/python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *map(oldest, needed)], check=True)
    subprocess.run([*install, "--no-deps", str(ROOT)], check=True)
    return python


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kalam-alone-") as directory:
        python = client_python(Path(directory) / "venv")
        serve = [sys.executable, "-m", "kalam_notify", "serve", "--dev", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                lines = (line.strip() for line in server.stdout)
                told = dict(line.rsplit(" ", 1) for line in (next(lines), next(lines)))
                url, token = told["listening on"], told["token:"]
                environment = {**os.environ, "PYTHONPATH": ""}
                follow = [python, "-c", FOLLOW, url, token]
                done = subprocess.run(follow, cwd=directory, env=environment, check=False)
                return done.returncode
            finally:
                server.terminate()


if __name__ == "__main__":
    sys.exit(main())
