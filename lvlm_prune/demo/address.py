"""Where the demo listens: addresses that it can have, and the names by which it is asked.

In: a host and a port as the user wrote them. Out: the host as gradio takes it, and the names that
requests may use; or a sentence about what is wrong, before a model is loaded. It knows nothing of
pages.
"""

import errno
import ipaddress
import socket

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
FIRST_PORT = 7860  # of gradio, which also looks whether the port is free on the loopback
Place = tuple[socket.AddressFamily, str]


def check_address(host: str, port: int | None) -> None:
    """See that the server can listen there.

    Args:
        host: name or address.
        port: None for one that is searched for later.

    Raises:
        OSError: it cannot; in a sentence.
    """
    for family, address in _places(host):
        _try(family, address, 0, host)
        if port is not None:
            _try(family, address, port, host)
    if port is not None:
        _try(socket.AF_INET, "127.0.0.1", port, "127.0.0.1")


def names(host: str, share: bool) -> frozenset[str] | None:
    """What requests may call the server; None where it has names that nobody can know here.

    Only a server that listens on this machine alone has its names for itself. There a web page of
    somebody else could otherwise read it, under a name of its own that leads to this machine.

    Args:
        host: see `check_address`.
        share: there is a public link, too.
    """
    own = all(ipaddress.ip_address(address).is_loopback for _, address in _places(host))
    return LOOPBACK | {written(host).lower()} if own and not share else None


def written(host: str) -> str:
    """A host as it stands in a web address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def taken(host: str, port: int | None) -> str:
    """The sentence about a port that somebody else has."""
    if port is None:
        return f"No port is free on {host} from {FIRST_PORT} on; name one with --port."
    return (
        f"Port {port} is taken on {host}; choose another one with --port, or leave it out for the "
        f"first free one from {FIRST_PORT}."
    )


def _places(host: str) -> list[Place]:
    """The addresses of a host."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise OSError(
            f"--host {host} is not known here; give an address of this machine, such as 127.0.0.1, "
            "or 0.0.0.0 for the whole network."
        ) from None
    return sorted({(family, str(place[0])) for family, _, _, _, place in found})


def _try(family: socket.AddressFamily, address: str, port: int, host: str) -> None:
    """Listen for a moment, on any port where it is 0."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise OSError(_sentence(error, host, port)) from None


def _sentence(error: OSError, host: str, port: int) -> str:
    """Why nobody can listen there."""
    if error.errno == errno.EADDRINUSE:
        return taken(host, port)
    if error.errno == errno.EACCES:
        return f"Port {port} is not for ordinary users; choose one from 1024 on with --port."
    return (
        f"--host {host} is not an address of this machine; use 127.0.0.1 for this machine alone, "
        "or 0.0.0.0 for the whole network."
    )
