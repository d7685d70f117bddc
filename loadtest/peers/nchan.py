"""nginx with nchan: published to by HTTP, one worker."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from loadtest.harness.faults import LoadTestFault
from loadtest.harness.http import HttpConnection
from loadtest.peers.peer import Absent, free_port, until_listening

MODULES = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/share/nginx/modules/ngx_nchan_module.so"),
)
CONFIGURATION = """\
load_module {module};
daemon off;
master_process off;
worker_rlimit_nofile 60000;
error_log {directory}/error.log error;
pid {directory}/nginx.pid;
events {{ worker_connections 30000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 8m;
    nchan_shared_memory_size 256m;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        keepalive_requests 1000000000;
        location = /pub {{
            nchan_publisher;
            nchan_channel_id load;
            nchan_message_buffer_length 1000;
        }}
        location = /sub {{
            nchan_subscriber websocket;
            nchan_channel_id load;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


class HttpPublisher:
    """Posts over one kept connection."""

    def __init__(self, base: str) -> None:
        self._connection = HttpConnection(base)

    async def publish(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            status, _ = await self._connection.request("POST", "/pub", body=message)
            if status not in (200, 201, 202):
                raise LoadTestFault(f"nchan answered a post {status}")


class Nchan:
    """A running nginx."""

    name, path, protocol = "nchan", "/sub", "plain"

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.address = ("127.0.0.1", port)
        self.process, self.pid = process, process.pid

    @classmethod
    async def start(cls, directory: Path) -> "Nchan":
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        module = next(filter(Path.exists, MODULES), None)
        if program is None or module is None:
            raise Absent("install Debian's nginx and libnginx-mod-nchan")
        port = free_port()
        text = CONFIGURATION.format(module=module, directory=directory, port=port)
        if os.geteuid() == 0:
            text = "user root;\n" + text
        (directory / "nginx.conf").write_text(text)
        with (directory / "log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                program, "-p", str(directory), "-c", str(directory / "nginx.conf"),
                stdout=log, stderr=log,
            )  # fmt: skip
        await until_listening(port, process, directory / "log")
        return cls(port, process)

    def publisher(self) -> HttpPublisher:
        return HttpPublisher(f"http://127.0.0.1:{self.address[1]}")
