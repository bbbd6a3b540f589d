"""The robot's side: ask a policy server, go on while it thinks. NumPy, msgpack and websockets alone; no torch."""

from foveate.client.policy import ConnectionLost, PolicyClient, ServerError
from foveate.client.queue import ActionQueue, RealTimeQueue

__all__ = ["ActionQueue", "ConnectionLost", "PolicyClient", "RealTimeQueue", "ServerError"]
