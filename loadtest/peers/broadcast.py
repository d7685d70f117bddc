"""`python -m loadtest.peers.broadcast PORT INLET`: what comes in at INLET goes to all at PORT."""

import asyncio
import resource
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

clients: set[ServerConnection] = set()


async def attend(client: ServerConnection) -> None:
    clients.add(client)
    try:
        await client.wait_closed()
    finally:
        clients.discard(client)


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            broadcast(clients, (await reader.readexactly(size)).decode())
            writer.write(b".")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int, inlet: int) -> None:
    async with (
        serve(attend, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096),
        await asyncio.start_server(take, "127.0.0.1", inlet, limit=1 << 24) as server,
    ):
        await server.serve_forever()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
