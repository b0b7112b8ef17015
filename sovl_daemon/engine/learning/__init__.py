"""Training of what steers: samples, passes, a candidate and what becomes of it."""
