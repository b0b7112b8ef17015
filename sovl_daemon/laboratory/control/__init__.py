"""A seeded plant to try the loop on: scenarios, faults, baselines and measures."""
