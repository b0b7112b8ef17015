"""The tally in a daemon of its own, which loads no model."""

from pathlib import Path

import pytest

from sovl_daemon.client import CommandError
from sovl_daemon.testing import WITHOUT_MODEL, running


def test_it_counts_what_it_hears_and_keeps_the_counts(tmp_path: Path) -> None:
    settings = WITHOUT_MODEL | {"agents.placement": {"tally": "toys"}}
    with running(tmp_path, **settings) as daemon:
        with daemon.client() as client:
            first = client.ask("tally")
            assert first["counts"]["agent.scribe"] >= 1
            assert first["last"] == []
            with pytest.raises(CommandError, match="was never heard"):
                client.ask("tally", topic="nonsense")
        assert daemon.stop() == 0
        with daemon.start().wait().client() as client:
            (piece, result) = client.stream("tally", topic="agent.scribe")
            assert result["counts"]["agent.scribe"] > first["counts"]["agent.scribe"]
            assert piece["text"] == f"agent.scribe: {result['counts']['agent.scribe']}\n"
