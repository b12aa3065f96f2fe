"""Handlers over the Unix socket, for agent and hub: who is calling, what they may do, errors as JSON, streams."""
