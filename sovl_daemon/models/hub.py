"""Fetching a model from the transformers hub: weights, configuration and tokenizer, no code."""

import io
from pathlib import Path
from typing import Any

from sovl_daemon.models.errors import FetchError, SourceUnreachable, first_line, later_is_better
from sovl_daemon.models.progress import ProgressCallback, StageProgress

# No pickles (*.bin, *.pt), no Python; subfolders hold other formats of the same weights.
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
UNWANTED = ["*/*", "consolidated*"]


def download_snapshot(name: str, report: ProgressCallback) -> Path:
    """Bring a model of the hub into the hub's own cache, where a second try resumes the first.

    Raises:
        FetchError: unknown, gated, or not to be kept.
        SourceUnreachable: the hub does not answer, or is too busy.

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
        if refusal := _refusal(error):
            raise FetchError(f"the hub does not give {name}: {refusal}") from error
        if hub.constants.HF_HUB_OFFLINE:
            raise FetchError(
                f"the hub cannot be reached (HF_HUB_OFFLINE is set), and {name} is not in its cache"
            ) from error
        raise SourceUnreachable(
            f"the hub cannot be reached, and {name} is not in its cache"
        ) from error
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        raise FetchError(
            f"{name} cannot be kept in {error.filename}: {error.strerror}; set store.cache_dir to "
            "a folder of this user's"
        ) from error
    except Exception as error:  # the client lets errors of its HTTP library through
        http_error = hub.errors.HTTPError  # type: ignore[attr-defined]  # whichever that is
        away = isinstance(error, http_error) and not _refusal(error)
        kind = SourceUnreachable if away else FetchError
        raise kind(f"{name} could not be fetched: {first_line(error)}") from error
    return Path(folder)


def _refusal(error: BaseException | None) -> str:
    """The first line of a hub's answer that would be the same later; empty where there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return "" if later_is_better(response.status_code) else first_line(error)
        error = error.__cause__
    return ""


def _reporting_bar(stage: str, report: ProgressCallback) -> type[Any]:
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class ReportingBar(tqdm):  # type: ignore[misc]
        """Hands the byte counts of a download on, and draws nothing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"file": io.StringIO()}))

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and self.n:
                report(StageProgress(stage, int(self.n), int(self.total or 0) or None, "B"))

    return ReportingBar
