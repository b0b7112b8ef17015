"""The scaffold, and how what it remembers steers the base."""
