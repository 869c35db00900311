"""Two machines on this one: network namespaces with a cable between them. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

ADDRESSES = ("10.213.7.1", "10.213.7.2")


class Refused(Exception):
    """This user or machine cannot make network namespaces; the message says what failed."""


@contextlib.contextmanager
def two_machines(delay: str = "") -> Iterator[list[str]]:
    """Join two network namespaces, and yield their names; their addresses are ``ADDRESSES``.

    Args:
        delay: added to every packet on each side by ``tc netem``, e.g. ``1ms``.

    Raises:
        Refused: where the commands are missing or not allowed.
    """
    names = [f"two-machines-{os.getpid()}-{node}" for node in (0, 1)]
    commands = [f"ip netns add {name}" for name in names]
    commands.append(f"ip -n {names[0]} link add cable type veth peer name cable netns {names[1]}")
    for name, address in zip(names, ADDRESSES, strict=True):
        commands.append(f"ip -n {name} addr add {address}/24 dev cable")
        commands += [f"ip -n {name} link set {device} up" for device in ("lo", "cable")]
        if delay:
            commands.append(f"ip netns exec {name} tc qdisc add dev cable root netem delay {delay}")
    try:
        for command in commands:
            _run(command)
        yield names
    finally:
        for name in names:
            with contextlib.suppress(Refused):
                _run(f"ip netns del {name}")


def _run(command: str) -> None:
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Refused(f"{command}: {error}") from None
    if done.returncode:
        raise Refused(f"{command}: {done.stderr.strip()}")
