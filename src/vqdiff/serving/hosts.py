"""Host names that a server responds to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from vqdiff.foundation.errors import InputError

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


class AllowedHosts:
    """The hosts that a server responds to.

    A website can make its own name resolve to this machine (DNS rebinding): a browser then treats the server as part of
    the website. Therefore only known names are allowed. Addresses and localhost cannot be abused like this.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        """names: ``example.org``, ``*.example.org`` for all below it, or ``*`` for any; else raises InputError."""
        self._names = [name.lower() for name in names]
        for name in self._names:
            if name != "*" and not _NAME.fullmatch(name) and not _is_address(name):
                raise InputError(
                    f"the allowed host is {name!r}: give only a name, such as example.org or *.example.org"
                )

    def __contains__(self, header: object) -> bool:
        """Whether the value of a Host header, with or without a port, names an allowed host."""
        if not isinstance(header, str):
            return False
        host = re.sub(r":\d*$", "", header.lower())
        if "*" in self._names or _is_address(host):
            return True
        host = host.removesuffix(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        return any(
            host.endswith(name[1:]) if name.startswith("*.") else host == name
            for name in (one.removesuffix(".") for one in self._names)
        )


def _is_address(host: str) -> bool:
    try:
        ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return True
