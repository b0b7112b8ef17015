"""The agent that answers, with what sets it and what measures it."""
