"""`python -m sovl_daemon.cli` is `sovl`."""

from sovl_daemon.cli.entry import main

main()
