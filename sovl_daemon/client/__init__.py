"""Talking to a SOVL daemon from Python, without torch.

    with Client() as sovl:
        print(sovl.ask("generate", prompt="Hello!")["text"])

`AsyncClient` is the same for asyncio. What `sovl_daemon.contracts` has a request for is answered
by its reply: `sovl.control(Status()).agents`. Errors derive from `ClientError`.
"""

from bus.errors import CommandError
from sovl_daemon.client.connection import AsyncClient
from sovl_daemon.client.errors import (
    ClientError,
    DaemonDown,
    DaemonSlow,
    PermissionRefused,
    WrongKey,
)
from sovl_daemon.client.sync import Client
from sovl_daemon.client.target import Target

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "CommandError",
    "DaemonDown",
    "DaemonSlow",
    "PermissionRefused",
    "Target",
    "WrongKey",
]
