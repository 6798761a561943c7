"""Identifying clients by their network address."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any


def network_of(peer: Any) -> str:
    """Return the client of a connection: its IPv4 address or the first half of its IPv6 address; "" if it has none."""
    try:
        address = ip_address(peer[0].partition("%")[0])
    except (TypeError, IndexError, ValueError):  # a Unix socket
        return ""
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
