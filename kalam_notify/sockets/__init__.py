"""The asyncio shell: uvicorn's HTTP, our WebSocket connections, bounded send buffers, heartbeat."""
