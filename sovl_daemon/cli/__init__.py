"""The `sovl` command."""

from sovl_daemon import import_path

import_path.leave_out_the_current_folder()
