"""Text to token ids and back: templates, turns, what a token says. No tensors."""
