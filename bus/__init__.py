"""How the parts of SOVL talk: envelopes, events (publish/subscribe) and commands."""
