"""The `sovl` command."""
