"""Connections on which everything together, from the name lookup to the last byte, ends by one deadline.

A socket's own timeout begins anew with every byte, so that a peer that trickles could hold a worker for ever.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

SocketAddress = tuple[socket.AddressFamily, Any]


class Deadline:
    """A moment that lies ``seconds`` ahead of its making."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left.

        Raises:
            TimeoutError: none are.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class AddressRefused(Exception):
    """A name leads only to addresses that must not be connected to."""


class TimedSocket(socket.socket):
    """A socket whose deadline bounds all it does."""

    deadline: Deadline

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive, by the deadline."""
        self.settimeout(self.deadline.remaining())
        return super().recv_into(buffer, nbytes, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send everything, by the deadline."""
        self.settimeout(self.deadline.remaining())
        super().sendall(data, flags)


class TimedTlsSocket(ssl.SSLSocket):
    """The same over TLS."""

    deadline: Deadline

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive, by the deadline."""
        self.settimeout(self.deadline.remaining())
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Send some, by the deadline; ``sendall`` goes through here."""
        self.settimeout(self.deadline.remaining())
        return super().send(data, flags)


class TimedTlsContext(ssl.SSLContext):
    """A context for clients that verifies certificates and hands its deadline on to the sockets it wraps."""

    sslsocket_class = TimedTlsSocket
    deadline: Deadline

    def wrap_socket(self, sock: socket.socket, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """Wrap a connected socket and shake hands, by the deadline."""
        sock.settimeout(self.deadline.remaining())
        wrapped = super().wrap_socket(sock, *arguments, **named)
        assert isinstance(wrapped, TimedTlsSocket)
        wrapped.deadline = self.deadline
        return wrapped


def make_tls_context(deadline: Deadline) -> TimedTlsContext:
    """Return a context that trusts what the system trusts (``SSL_CERT_FILE`` names another list)."""
    context = TimedTlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    context.deadline = deadline
    return context


def connect(host: str, port: int, deadline: Deadline, is_allowed: Callable[[str], bool] | None = None) -> TimedSocket:
    """Return a connection to the first address of a name that answers.

    ``is_allowed`` is asked about each address itself, and none but an allowed one is connected to: a name that
    resolves differently the next time gains nothing.

    Raises:
        AddressRefused: the name has addresses, but none that is allowed.
        OSError: no such name, or nobody answers there; TimeoutError: not in time.
    """
    addresses = _resolve(host, port, deadline)
    allowed = [address for address in addresses if is_allowed is None or is_allowed(address[1][0])]
    if not allowed:
        raise AddressRefused(host)
    for index, address in enumerate(allowed):
        try:
            # A share of the time for each: one address that swallows packets must not use up the others' chance.
            return _connect_to(address, deadline, deadline.remaining() / (len(allowed) - index))
        except OSError:
            if index + 1 == len(allowed):
                raise
    raise AssertionError("unreachable")


def _connect_to(address: SocketAddress, deadline: Deadline, timeout_seconds: float) -> TimedSocket:
    family, target = address
    connection = TimedSocket(family, socket.SOCK_STREAM)
    try:
        connection.deadline = deadline
        connection.settimeout(timeout_seconds)
        connection.connect(target)
    except BaseException:
        connection.close()
        raise
    return connection


def _resolve(host: str, port: int, deadline: Deadline) -> list[SocketAddress]:
    # The resolver takes no timeout and can sit for half a minute; its thread is left behind then, and ends with it.
    answers: queue.SimpleQueue[list[SocketAddress] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            answers.put(error)
        except ValueError:
            answers.put(socket.gaierror(socket.EAI_NONAME, "the name is not one that can be looked up"))
        else:
            answers.put([(family, address) for family, _, _, _, address in found])

    threading.Thread(target=look_up, name="name-lookup", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.remaining())
    except queue.Empty:
        raise TimeoutError("the name lookup timed out") from None
    if isinstance(answer, OSError):
        raise answer
    return answer
