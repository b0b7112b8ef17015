"""The agent that learns by night and from pairs, and keeps what was learned."""
