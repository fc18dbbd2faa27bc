"""What passes between a host and its emulated device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import strict_graph


@dataclass
class Traffic:
    """What has passed between a host and its device."""

    waits: int = 0
    """Times that the host waited for the device, copies included that it had to wait for."""
    to_host: int = 0
    to_device: int = 0
    """Copies."""
    numbers: int = 0
    """That were copied."""
    operations: int = 0
    """Of torch on the device, views not counted, calls of the library, and replays of graphs."""

    def since(self, before: Traffic) -> Traffic:
        """What has come since `before`, a copy of that time."""
        return Traffic(**{k: value - getattr(before, k) for k, value in vars(self).items()})


traffic = Traffic()
"""Of this process."""


def wait(what: Any) -> None:
    """The host waits for the device to have done everything."""
    strict_graph.refuse_while_recording(what)
    traffic.waits += 1
