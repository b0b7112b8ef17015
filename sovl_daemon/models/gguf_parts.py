"""The parts of a split GGUF file: found beside each other, and put together."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sovl_daemon.models.errors import ConversionError
from sovl_daemon.models.files import require_space
from sovl_daemon.models.progress import ProgressCallback, StageProgress
from sovl_daemon.models.unusable import few

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
# What says that a file is a part, and what the reader makes up.
_OF_PARTS = ("split.", "GGUF.")


def whole_name(name: str) -> str:
    """Return a GGUF file's name without its ending, and without which part it is."""
    match = _PART.fullmatch(name)
    return match["stem"] if match else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)


def parts_of(path: Path) -> list[Path]:
    """Return all parts of the file that one of them is given of, in order; itself if it is whole.

    Raises:
        ConversionError: some are not beside it; the message names them.

    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count, ending = int(match["count"]), path.suffix
    names = [f"{match['stem']}-{n:05}-of-{count:05}{ending}" for n in range(1, count + 1)]
    if missing := [name for name in names if not path.with_name(name).is_file()]:
        raise ConversionError(
            f"{path.name} is one of {count} parts, and {few(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not in {path.parent}: put all parts there"
        )
    return [path.with_name(name) for name in names]


def whole(path: Path, folder: Path, report: ProgressCallback) -> Path:
    """Return a checkpoint that is in one piece; the parts of one are put together in `folder`.

    Raises:
        ConversionError: a part is missing, or they do not belong together.
        NoSpace: there is no room for them together.

    """
    parts = parts_of(path)
    if len(parts) == 1:
        return path
    require_space(folder, sum(part.stat().st_size for part in parts))
    target = folder / f"{whole_name(path.name)}.gguf"
    try:
        _join(parts, target, report)
    except (ValueError, IndexError, KeyError) as error:
        raise ConversionError(
            f"the parts of {whole_name(path.name)} cannot be put together ({error}): one is "
            "damaged, or of another file; fetch them again"
        ) from error
    return target


def _join(parts: Sequence[Path], target: Path, report: ProgressCallback) -> None:
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    readers: list[Any] = [GGUFReader(part) for part in parts]
    first, tensors = readers[0], [each for reader in readers for each in reader.tensors]
    promised = first.fields.get("split.tensors.count")
    if promised is not None and promised.contents() != len(tensors):
        raise ValueError(f"{len(tensors)} of {promised.contents()} tensors")
    writer = GGUFWriter(
        target, first.fields["general.architecture"].contents(), endianess=first.endianess
    )
    for name, field in first.fields.items():
        if name != "general.architecture" and not name.startswith(_OF_PARTS):
            kind, of = field.types[0], field.types[-1]
            array = kind == GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), kind, sub_type=of if array else None)
    for each in tensors:
        data = each.data
        writer.add_tensor_info(each.name, data.shape, data.dtype, data.nbytes, each.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total, done = sum(each.data.nbytes for each in tensors), 0
    for each in tensors:
        writer.write_tensor_data(each.data)
        done += each.data.nbytes
        report(StageProgress("putting the parts together", done, total, "B"))
    writer.close()
