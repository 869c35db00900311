"""Two machines on this one: network namespaces with a cable between them. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

ADDRESSES = ("10.213.7.1", "10.213.7.2")
# Of linux/if_tun.h: a device whose packets a process reads and writes, as they are.
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
LONGEST_PACKET = 9000


class Refused(Exception):
    """This user or machine cannot make network namespaces; the message says what failed."""


@contextlib.contextmanager
def two_machines(delay: float = 0.0) -> Iterator[list[str]]:
    """Join two network namespaces, and yield their names; their addresses are ``ADDRESSES``.

    Args:
        delay: seconds that every packet takes from one to the other. It is added by threads of this process and not by
            ``tc netem``, which many kernels are built without.

    Raises:
        Refused: where the commands are missing or not allowed.
    """
    names = [f"two-machines-{os.getpid()}-{node}" for node in (0, 1)]
    with contextlib.ExitStack() as stack:
        for name in names:
            _run(f"ip netns add {name}")
            stack.callback(_forget, f"netns del {name}")
        if delay:
            ends = [stack.enter_context(_own_end(name)) for name in names]
        else:
            _run(f"ip -n {names[0]} link add cable type veth peer name cable netns {names[1]}")
        for name, address in zip(names, ADDRESSES, strict=True):
            stack.callback(_forget, f"-n {name} link del cable")
            _run(f"ip -n {name} addr add {address}/24 dev cable")
            for device in ("lo", "cable"):
                _run(f"ip -n {name} link set {device} up")
        if delay:
            _carry(*ends, delay)
            _carry(*ends[::-1], delay)
        yield names


@contextlib.contextmanager
def _own_end(name: str) -> Iterator[int]:
    """Make the device ``cable`` in a namespace; what comes out of it this process reads, and what it writes goes in."""
    device = f"cable-{name[-8:]}"
    try:
        end = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    except OSError as error:
        raise Refused(f"/dev/net/tun: {error}") from None
    _run(f"ip link set {device} netns {name} name cable")
    _run(f"ip -n {name} link set cable mtu {LONGEST_PACKET}")
    try:
        yield end
    finally:
        os.close(end)


def _carry(source: int, target: int, delay: float) -> None:
    """Begin to write to one device what is read from the other, each packet ``delay`` seconds later."""
    on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(OSError):  # the device is gone: so is this cable
            while True:
                packet = os.read(source, 2 * LONGEST_PACKET)
                on_the_way.put((time.monotonic() + delay, packet))

    def write() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, packet = on_the_way.get()
                time.sleep(max(0.0, due - time.monotonic()))
                os.write(target, packet)

    for work in (read, write):
        threading.Thread(target=work, daemon=True).start()


def _forget(what: str) -> None:
    with contextlib.suppress(Refused):
        _run(f"ip {what}")


def _run(command: str) -> None:
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Refused(f"{command}: {error}") from None
    if done.returncode:
        raise Refused(f"{command}: {' '.join(done.stderr.split())}")
