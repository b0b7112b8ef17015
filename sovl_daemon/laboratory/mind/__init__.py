"""A simulated life of a mind, with an imagined visitor."""
