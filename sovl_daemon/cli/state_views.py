"""How generations look to people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from rich.table import Table

from sovl_daemon.cli.render import console, escape, facts
from sovl_daemon.models.manifest import FileEntry
from sovl_daemon.state import Generation, Listed

if TYPE_CHECKING:
    from sovl_daemon.state.diff import Difference


@dataclass(frozen=True, kw_only=True)
class GenerationRow:
    """One generation: its manifest, where it is, and how much it has learned in all."""

    format_version: int
    number: int
    parent: int | None
    created: str
    reason: str
    base: str
    scaffold: str
    digests: dict[str, str]
    metrics: dict[str, Any]
    memory: str
    files: dict[str, FileEntry]
    folder: str
    bytes: int
    learned: int
    interactions: list[int]

    @classmethod
    def of(cls, generation: Generation, **more: Any) -> Self:
        """The row of a generation, with what else a row of this kind has."""
        manifest = generation.manifest
        return cls(
            **manifest.model_dump(mode="json", exclude={"learned", "files"}),
            files=manifest.files,
            folder=str(generation.folder),
            bytes=manifest.total_bytes,
            learned=len(manifest.learned_from(manifest.memory)),
            interactions=manifest.interactions,
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class ListedRow:
    """One line of a list: the name of a folder and, where it cannot be used, why."""

    name: str
    fault: str

    @staticmethod
    def of_folder(listed: Listed) -> ListedRow:
        """The line of a folder."""
        name = listed.folder.name
        if listed.manifest is None:
            return ListedRow(name=name, fault=listed.fault)
        generation = Generation(listed.folder, listed.manifest)
        return SoundRow.of(generation, name=name, fault=listed.fault)


@dataclass(frozen=True, kw_only=True)
class SoundRow(GenerationRow, ListedRow):
    """One line of a list, of a generation that has a manifest."""


@dataclass(frozen=True, kw_only=True)
class ShownGeneration(GenerationRow):
    """One generation, with the mind in it."""

    mind: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StateList:
    """All that there is in a state directory."""

    state_dir: str
    generations: list[ListedRow]
    current: int | None
    saves: list[ListedRow]
    candidate: bool
    damaged: list[str]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was removed."""

    generations: list[int]
    saves: list[str]
    damaged: list[str]


def listed(found: StateList) -> None:
    """A line for each generation and each save."""
    if not found.generations and not found.saves:
        console.print(f"no generations in {escape(found.state_dir)}: nothing has been learned yet")
    if found.generations:
        console.print(_table("generation", found.generations))
        console.print(f"current: {found.current or 'none of them can be loaded'}")
    if found.saves:
        console.print(_table("save", found.saves))
    if found.candidate:
        console.print("a night is unfinished, its checkpoint is in candidate")
    for path in found.damaged:
        console.print(f"damaged, kept in {escape(path)}")


def shown(generation: ShownGeneration) -> None:
    """Everything about one generation but the hashes of its files."""
    sizes = ", ".join(f"{name} {entry.bytes} B" for name, entry in generation.files.items())
    facts((asdict(generation) | {"files": sizes}).items())


def difference(found: Difference) -> None:
    """What is different, the tensors as a table."""
    if found.tensors:
        table = Table("tensor", "change", "relative", "norm", box=None)
        for tensor in found.tensors:
            relative = "" if tensor.relative is None else f"{tensor.relative:.2%}"
            norm = "" if tensor.norm is None else f"{tensor.norm:.3g}"
            table.add_row(*map(escape, (tensor.name, tensor.change, relative, norm)))
        console.print(table)
    console.print(f"{len(found.tensors)} tensors differ, {found.same_tensors} are the same")
    for number in found.mind:
        before, after = json.dumps(number.before), json.dumps(number.after)
        console.print(f"{escape(number.name)}: {escape(before)} -> {escape(after)}")
    console.print(
        f"{found.token_weights} token weights differ; {len(found.learned)} interactions "
        f"learned, {len(found.unlearned)} no longer learned"
    )


def pruned(removed: Removed) -> None:
    """What was removed."""
    kinds = asdict(removed).items()
    told = [f"{kind}: {', '.join(map(str, names))}" for kind, names in kinds if names]
    console.print(escape(f"removed {'; '.join(told)}" if told else "nothing to remove"))


def _table(title: str, rows: list[ListedRow]) -> Table:
    columns = ("made", "reason", "parent", "learned", "size", "base", "scaffold")
    table = Table(title, *columns, box=None)
    table.columns[1].no_wrap = True
    for row in rows:
        cells: tuple[object, ...] = (row.name, "", f"damaged: {row.fault}")
        if isinstance(row, SoundRow) and not row.fault:
            cells = (
                row.name,
                row.created[:16].replace("T", " "),
                row.reason,
                "" if row.parent is None else row.parent,
                f"{len(row.interactions)} of {row.learned}",
                f"{row.bytes / 1e6:.1f} MB",
                row.base,
                row.scaffold,
            )
        table.add_row(*map(escape, cells))
    return table
