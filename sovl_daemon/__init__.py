"""The SOVL daemon: its processes, and the libraries that its agents use."""

from sovl_daemon import import_path

import_path.keep_our_names()
