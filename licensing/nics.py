"""The address that a NIC was made with, whatever it was told to use since: asked of its driver, as `ethtool -P` does.

Needs no rights and sends nothing; any socket will do to ask the kernel by.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_ETHTOOL_GPERMADDR = 0x20
_ADDRESS_MOST = 32
"""MAX_ADDR_LEN of netdevice.h."""
_HEAD = struct.Struct("=II")


def permanent_address(name: str) -> str | None:
    """`3c:ec:ef:12:34:56`; `None` where there is no such NIC here, or its driver tells none (all zeros, or nothing)."""
    answer = array.array("B", _HEAD.pack(_ETHTOOL_GPERMADDR, _ADDRESS_MOST) + bytes(_ADDRESS_MOST))
    try:
        asked = struct.pack("16sP", name.encode("ascii")[:15], answer.buffer_info()[0])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as by:
            fcntl.ioctl(by, _SIOCETHTOOL, asked)
    except (OSError, UnicodeEncodeError):
        return None
    told = answer.tobytes()
    _, size = _HEAD.unpack_from(told)
    address = told[_HEAD.size : _HEAD.size + min(size, _ADDRESS_MOST)]
    return address.hex(":") if any(address) else None
