"""What is killed, stopped, flooded and starved many times over; ./scripts/bench runs each."""
