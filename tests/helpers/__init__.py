"""What tests share: a real server process, a plain WebSocket client, a strict view."""
