"""What SOVL remembers, and what it learns from: interactions and pairs."""
