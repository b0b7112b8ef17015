"""Which probe the judge of a model has, what prompts of a task look like, and why it decided."""
