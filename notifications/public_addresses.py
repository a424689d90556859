"""Which IP addresses lie on the public internet."""

from __future__ import annotations

import ipaddress

# Addresses of IPv4 hosts as IPv6 sees them: RFC 6052 (NAT64). The others are known to ipaddress.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public_address(text: str) -> bool:
    """Whether an IP address is one of a host on the public internet.

    Private, loopback, link-local (where clouds keep their credentials), shared, multicast, reserved and unspecified
    addresses are not, nor is an IPv6 address that only wraps such an IPv4 address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    inner = _unwrap(address) if isinstance(address, ipaddress.IPv6Address) else None
    if inner is not None:
        return is_public_address(str(inner))
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _unwrap(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    # Teredo is left out: nothing serves webhooks there, and ipaddress counts it as not global.
    return address.ipv4_mapped or address.sixtofour
