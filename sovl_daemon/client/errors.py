"""Why a daemon cannot be talked to. Each is one line that says what to do next."""

from __future__ import annotations


class ClientError(Exception):
    """The daemon cannot be reached or does not answer."""


class DaemonDown(ClientError):
    """Nobody listens there."""


class PermissionRefused(ClientError):
    """The socket is there, but this user may not use it."""


class WrongKey(ClientError):
    """Somebody listens, but the keys do not fit."""


class DaemonSlow(ClientError):
    """The connection stands, but no answer came in time."""
