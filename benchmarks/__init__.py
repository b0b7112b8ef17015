"""What SOVL takes, beside what others take: each has `run(quick: bool) -> Bench`."""
