"""A TCP proxy that tests put in front of a server, to break the link on command."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy: the client's socket and the server's."""

    near: socket.socket
    far: socket.socket
    gone: threading.Event = field(default_factory=threading.Event)
    flows: int = 2

    def cut(self) -> None:
        """Break both sides with a reset, as a dropped link looks to the two ends."""
        if self.gone.is_set():
            return
        self.gone.set()
        for end in (self.near, self.far):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Listens on a port of its own on 127.0.0.1 and passes on to ``target``, until told otherwise.

    Attributes:
        port: where it listens; the same for its whole life, refusing or not.
        sent: bytes passed on from clients to the server so far, of all connections.
        received: bytes passed on from the server to clients so far.
        connections: how many were accepted so far.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.sent = self.received = self.connections = 0
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._limits: dict[str, int] = {}
        self._closed = False
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accept()

    def cut(self) -> None:
        """Break every connection now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.cut()

    def cut_after(self, *, sent: int | None = None, received: int | None = None) -> None:
        """Break every connection once so many *more* bytes went up (down); once."""
        with self._lock:
            if sent is not None:
                self._limits["sent"] = self.sent + sent
            if received is not None:
                self._limits["received"] = self.received + received

    def stall(self) -> None:
        """Pass nothing on, either way, and break nothing: a link gone silent."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass on again what :meth:`stall` held back."""
        self._flowing.set()

    def refuse(self) -> None:
        """Refuse new connections ("Connection refused"); those that stand go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def accept(self) -> None:
        """Take new connections again, on the same port, after :meth:`refuse`."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._accept()

    def close(self) -> None:
        """Stop listening and break every connection."""
        self._closed = True
        self.refuse()
        self.cut()
        self._flowing.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=10)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for end in (near, far):  # small packets go at once, as without a proxy
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(near, far)
            with self._lock:
                self.connections += 1
                self._pairs.append(pair)
            for source, sink, name in ((near, far, "sent"), (far, near, "received")):
                threading.Thread(
                    target=self._pass_on, args=(pair, source, sink, name), daemon=True
                ).start()

    def _pass_on(self, pair: _Pair, source: socket.socket, sink: socket.socket, name: str) -> None:
        try:
            while data := source.recv(1 << 14):
                while not self._flowing.wait(0.1):
                    if pair.gone.is_set() or self._closed:
                        return
                due = self._counted(name, len(data))
                sink.sendall(data[:due])
                if due < len(data):
                    self.cut()
                    return
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pair.cut()
        finally:
            self._over(pair)

    def _over(self, pair: _Pair) -> None:
        """Note that one way of ``pair`` has ended; close it after the other."""
        with self._lock:
            pair.flows -= 1
            if pair.flows:
                return
            if pair in self._pairs:
                self._pairs.remove(pair)
        pair.cut()

    def _counted(self, name: str, size: int) -> int:
        """Count ``size`` bytes; return how many of them may still pass before the cut."""
        with self._lock:
            limit = self._limits.get(name)
            so_far = getattr(self, name)
            due = size if limit is None else min(size, max(limit - so_far, 0))
            if due < size:
                del self._limits[name]
            setattr(self, name, so_far + due)
            return int(due)
