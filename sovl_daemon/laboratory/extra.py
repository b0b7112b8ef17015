"""What the laboratory needs of others, which the daemon does without."""

from importlib.util import find_spec

from sovl_daemon.engine.errors import OptionError


def require_scikit_learn() -> None:
    """Raise OptionError if there is no scikit-learn, which fits and scores."""
    if find_spec("sklearn") is None:
        raise OptionError("this needs scikit-learn: run pip install 'sovl-daemon[laboratory]'")
