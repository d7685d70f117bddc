"""The WebSocket dialect: messages, states, close codes, frames. Plain synchronous code, no I/O."""
