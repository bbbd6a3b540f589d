"""A client of `foveate serve`, and of any server that speaks openpi's protocol.

    client = PolicyClient("robot-server", 8000)
    actions = client.infer({"observation/image": image, "observation/state": state, "prompt": "..."})["actions"]

Its constructor, `infer`, `get_server_metadata` and `reset` are those of openpi-client's `WebsocketClientPolicy`; beyond
these it has time-outs, tries again where a connection is lost, and runs with NumPy 2.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from foveate.errors import FoveateError
from foveate.util import msgpack_numpy

try:
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
    from websockets.sync.client import ClientConnection, connect
except ImportError as error:
    raise FoveateError('websockets is missing; run: pip install "foveate[client]"') from error

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between two attempts to connect: doubled each time, from the first up to the longest."""
MAX_ANSWER_BYTES = 1 << 26
PROTOCOL = 1
"""Of what foveate adds to openpi's protocol; a server of a later one is not understood."""
PERMANENT = (400, 401, 403, 404, 426)
"""HTTP statuses after which there is no use in trying again."""


class ServerError(FoveateError, RuntimeError):
    """What the server says is wrong with a query; the connection stands."""


class ConnectionLost(FoveateError, ConnectionError):
    """The server cannot be reached, has gone, or was silent for too long; the next query connects anew."""


class PolicyClient:
    """One connection to a policy server. Not thread-safe: one caller at a time.

    Args:
        host: name or address, or a whole `ws://` or `wss://` URI.
        port: None: the URI's own.
        api_key: shown to the server, where it asks for a token.
        timeout_s: an answer that takes longer raises `ConnectionLost`; None waits for ever.
        wait_s: how long to try to reach the server, at first and after a connection was lost; None: for ever, 0: once.
        tries: how often a query is sent where the connection is lost before its answer.
    Raises:
        ConnectionLost: there is no server within `wait_s`, or it lets nobody in without the right token.
        FoveateError: the server speaks a later protocol.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float | None = 10.0,
        wait_s: float | None = 60.0,
        tries: int = 1,
    ) -> None:
        self.uri = host if host.startswith(("ws://", "wss://")) else f"ws://{host}"
        if port is not None:
            self.uri += f":{port}"
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._timeout_s, self._wait_s, self._tries = timeout_s, wait_s, tries
        self._connection: ClientConnection | None = None
        self._held = ExitStack()
        self._metadata: dict[str, Any] = {}
        self.connections = 0
        """How often it has connected; a session's history is gone after each."""
        self._connect()

    def get_server_metadata(self) -> dict[str, Any]:
        """What the server said of itself when the connection was opened."""
        return self._metadata

    @property
    def speaks_foveate(self) -> bool:
        """Whether the server takes what foveate adds to openpi's protocol."""
        return str(self._metadata.get("server", "")).startswith("foveate ")

    def infer(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        """One observation -> `actions` float32 [horizon, action_dim], `policy_timing`, `server_timing`.

        Raises:
            ServerError: what is wrong with the observation.
            ConnectionLost: no answer came.
        """
        return self._ask(obs)

    def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Several observations at once; one by one where the server does not know batches.

        Returns:
            An answer each, as `infer` gives it; of a refused one `error` alone.
        """
        if self.speaks_foveate:
            return list(self._ask({"batch": [dict(obs) for obs in observations]})["batch"])
        answers = []
        for obs in observations:
            try:
                answers.append(self.infer(obs))
            except ServerError as refused:
                answers.append({"error": str(refused)})
        return answers

    def reset(self, session: str | None = None) -> None:
        """A new episode begins: the server forgets what it remembers of a session; None: of this whole connection."""
        if self.speaks_foveate:
            self._ask({"reset": True} if session is None else {"reset": True, "session": session})

    def close(self) -> None:
        """End the connection."""
        self._connection = None
        self._held.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        frame = msgpack_numpy.pack(message)
        for attempt in range(1, self._tries + 1):
            try:
                return self._answer(frame)
            except ConnectionLost:
                if attempt == self._tries:
                    raise
        raise AssertionError("tries is at least 1")

    def _answer(self, frame: bytes) -> dict[str, Any]:
        connection = self._connection or self._connect()
        try:
            connection.send(frame)
            answer = connection.recv(self._timeout_s)
        except TimeoutError:
            # Its answer may still come, and would be taken for that of the next query.
            self._drop()
            raise ConnectionLost(f"{self.uri}: no answer within {self._timeout_s:g} s") from None
        except (ConnectionClosed, OSError) as error:
            self._drop()
            raise ConnectionLost(f"{self.uri}: the connection was lost before the answer came ({error})") from None
        if isinstance(answer, str):
            raise ServerError(f"{self.uri}: {answer}")
        found: dict[str, Any] = msgpack_numpy.arrays_in(msgpack_numpy.unpack(answer))
        return found

    def _check_protocol(self) -> None:
        spoken = self._metadata.get("protocol") if self.speaks_foveate else PROTOCOL
        if not isinstance(spoken, int) or spoken > PROTOCOL:
            self._held.close()
            raise FoveateError(
                f"{self.uri}: {self._metadata['server']} speaks protocol {spoken!s:.20}, this client {PROTOCOL}; run: "
                'pip install --upgrade "foveate[client]"'
            )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close_socket()  # without waiting for the other side
        self.close()

    def _connect(self) -> ClientConnection:
        begun, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                opening = connect(
                    self.uri,
                    compression=None,
                    max_size=MAX_ANSWER_BYTES,
                    additional_headers=self._headers,
                    open_timeout=self._timeout_s or 10.0,
                    close_timeout=1.0,
                )
                connection = self._held.enter_context(opening)
                hello = connection.recv(self._timeout_s)
                told = None if isinstance(hello, str) else msgpack_numpy.arrays_in(msgpack_numpy.unpack(hello))
                if not isinstance(told, dict):
                    raise msgpack_numpy.MessageError("its first frame is no map")
                self._metadata = told
                self._check_protocol()
                self._connection, self.connections = connection, self.connections + 1
                return connection
            except (InvalidURI, msgpack_numpy.MessageError) as error:
                raise ConnectionLost(f"{self.uri}: no policy server ({error})") from None
            except (OSError, InvalidHandshake, ConnectionClosed) as error:  # TimeoutError is an OSError
                if isinstance(error, InvalidStatus) and error.response.status_code in PERMANENT:
                    body = bytes(error.response.body or b"").decode(errors="replace").strip()
                    raise ConnectionLost(f"{self.uri}: not let in ({error}){': ' * bool(body)}{body}") from None
                if self._wait_s is not None and time.monotonic() - begun + pause > self._wait_s:
                    raise ConnectionLost(
                        f"{self.uri}: no policy server reached within {self._wait_s:g} s ({error}); is `foveate serve` "
                        "running there?"
                    ) from None
            self._held.close()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
