"""What a night learns from: lessons made of what was told by day, and what must not be forgotten."""
