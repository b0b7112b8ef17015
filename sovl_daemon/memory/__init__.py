"""What SOVL remembers: its interactions."""
