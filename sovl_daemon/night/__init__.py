"""What a night learns from: lessons about what was told by day, and dreams that keep the rest."""
