"""Answers side by side, a token a step: continuous batching."""
