"""A real daemon in processes of its own, for tests that talk to it as a user would.

    with running(tmp_path, **WITHOUT_MODEL) as daemon, daemon.client() as client:
        assert client.ask("say", text="hello")["text"] == "hello"

Nothing of the daemon imports this, and it needs no test framework. What has a home elsewhere is in
`level`: a gauge that a test sets, and tasks that watch it.
"""

from sovl_daemon.testing.daemon import (
    PATIENCE_S,
    SOVL,
    WITHOUT_MODEL,
    Daemon,
    running,
    until,
)

__all__ = ["PATIENCE_S", "SOVL", "WITHOUT_MODEL", "Daemon", "running", "until"]
