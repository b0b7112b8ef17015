"""Prints docs/world.md: every situation with its source and what is expected in it."""

import sys

from tests.world.register import as_markdown

sys.stdout.write(as_markdown())
