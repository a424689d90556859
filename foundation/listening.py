"""Whether an address is free to listen on, said before anything is started."""

from __future__ import annotations

import errno
import socket

from foundation.errors import SettingsError
from foundation.processes import await_condition

# Processes of a killed predecessor may hold the port for a moment longer.
PORT_WAIT_SECONDS = 1.0


def ensure_port_is_free(host: str, port: int, wait_seconds: float = PORT_WAIT_SECONDS) -> None:
    """Return once nobody listens on the address.

    The web server itself would not notice: its processes share one port, and so would a second service of the
    same user.

    Raises:
        SettingsError: somebody still listens after ``wait_seconds``, or HOST is no address of this machine.
    """
    faults: list[OSError] = []

    def is_free() -> bool:
        faults.clear()
        try:
            _bind(host, port)
        except OSError as error:
            faults.append(error)
            return error.errno != errno.EADDRINUSE
        return True

    await_condition(is_free, wait_seconds)
    if faults:
        raise SettingsError(_describe(faults[0], host, port)) from faults[0]


def probe_address(host: str) -> str:
    """Return the address under which a server that listens on ``host`` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # compared, not bound


def _bind(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        # Connections that have just ended do not count; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()


def _describe(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"HOST: {host} is no address of this machine"
    if error.errno == errno.EADDRINUSE:
        return f"PORT: {host}:{port} is taken by another process"
    return f"PORT: {host}:{port} cannot be used ({error.strerror})"
