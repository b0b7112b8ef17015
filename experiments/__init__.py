"""What the documents claim of learning and of the health loop, tried: each has `run(quick)`."""
