"""Fetching a model from the transformers hub: weights, configuration and tokenizer, no code."""

import io
from pathlib import Path
from typing import Any

from sovl_daemon.models.errors import FetchError, first_line
from sovl_daemon.models.progress import Progress, ProgressCallback

# No pickles (*.bin, *.pt), no Python; subfolders hold other formats of the same weights.
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
UNWANTED = ["*/*", "consolidated*"]


def download_snapshot(name: str, report: ProgressCallback) -> Path:
    """Bring a model of the hub into the hub's own cache, where a second try resumes the first.

    Raises:
        FetchError: unknown, gated, or the hub cannot be reached.

    """
    import huggingface_hub as hub  # takes half a second: only a pull from the hub pays it

    bar = _reporting_bar(f"downloading {name}", report)
    try:
        folder = hub.snapshot_download(
            name, allow_patterns=WANTED, ignore_patterns=UNWANTED, tqdm_class=bar
        )
    except hub.errors.GatedRepoError as error:
        raise FetchError(
            f"{name} is gated: accept its terms on its hub page, then log in with: hf auth login"
        ) from error
    except hub.errors.RepositoryNotFoundError as error:
        raise FetchError(
            f"the hub has no model {name} that this user may read: check the name, or log in with: "
            "hf auth login"
        ) from error
    except (hub.errors.LocalEntryNotFoundError, hub.errors.RevisionResolutionError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if hub.constants.HF_HUB_OFFLINE else ""
        raise FetchError(
            f"the hub cannot be reached{offline}, and {name} is not in its cache"
        ) from error
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        raise FetchError(
            f"{name} cannot be kept in {error.filename}: {error.strerror}; set store.cache_dir to "
            "a folder of this user's"
        ) from error
    except Exception as error:  # the client lets errors of its HTTP library through
        raise FetchError(f"{name} could not be fetched: {first_line(error)}") from error
    return Path(folder)


def _reporting_bar(stage: str, report: ProgressCallback) -> type[Any]:
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class ReportingBar(tqdm):  # type: ignore[misc]
        """Hands the byte counts of a download on, and draws nothing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"file": io.StringIO()}))

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and self.n:
                report(Progress(stage, int(self.n), int(self.total or 0) or None, "B"))

    return ReportingBar
