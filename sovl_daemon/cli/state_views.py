"""How generations look to people."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from sovl_daemon.cli.render import console, escape, facts


def listed(data: dict[str, Any]) -> None:
    """A line for each generation and each save."""
    if not data["generations"] and not data["saves"]:
        console.print(
            f"no generations in {escape(data['state_dir'])}: nothing has been learned yet"
        )
    if data["generations"]:
        console.print(_table("generation", data["generations"]))
        console.print(f"current: {data['current'] or 'none of them can be loaded'}")
    if data["saves"]:
        console.print(_table("save", data["saves"]))
    if data["candidate"]:
        console.print("a night is unfinished, its checkpoint is in candidate")
    for path in data["damaged"]:
        console.print(f"damaged, kept in {escape(path)}")


def shown(data: dict[str, Any]) -> None:
    """Everything about one generation but the hashes of its files."""
    sizes = {name: f"{entry['bytes']} B" for name, entry in data["files"].items()}
    facts(data | {"files": ", ".join(f"{name} {size}" for name, size in sizes.items())})


def difference(data: dict[str, Any]) -> None:
    """What is different, the tensors as a table."""
    changes = data["tensors"]
    if changes:
        table = Table("tensor", "change", "relative", "norm", box=None)
        for each in changes:
            cells = (each["name"], each["change"], _share(each["relative"]), _short(each["norm"]))
            table.add_row(*map(escape, cells))
        console.print(table)
    console.print(f"{len(changes)} tensors differ, {data['same_tensors']} are the same")
    for each in data["mind"]:
        before, after = json.dumps(each["before"]), json.dumps(each["after"])
        console.print(f"{escape(each['name'])}: {escape(before)} -> {escape(after)}")
    console.print(
        f"{data['token_weights']} token weights differ; {len(data['learned'])} interactions "
        f"learned, {len(data['unlearned'])} no longer learned"
    )


def pruned(data: dict[str, Any]) -> None:
    """What was removed."""
    told = [f"{kind}: {', '.join(map(str, names))}" for kind, names in data.items() if names]
    console.print(escape(f"removed {'; '.join(told)}" if told else "nothing to remove"))


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    columns = ("made", "reason", "parent", "learned", "size", "base", "scaffold")
    table = Table(title, *columns, box=None)
    table.columns[1].no_wrap = True
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    return table


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    if row["fault"]:
        return (row["name"], "", f"damaged: {row['fault']}")
    return (
        row["name"],
        row["created"][:16].replace("T", " "),
        row["reason"],
        "" if row["parent"] is None else row["parent"],
        f"{len(row['interactions'])} of {row['learned']}",
        f"{row['bytes'] / 1e6:.1f} MB",
        row["base"],
        row["scaffold"],
    )


def _share(relative: float | None) -> str:
    return "" if relative is None else f"{relative:.2%}"


def _short(norm: float | None) -> str:
    return "" if norm is None else f"{norm:.3g}"
