"""The SOVL daemon: its processes, and the libraries that its agents use."""
