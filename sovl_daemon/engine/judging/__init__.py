"""Verdicts of the base by a probe of its hidden states."""
