"""Benchmarks: each module has `run(quick: bool) -> Bench`."""
