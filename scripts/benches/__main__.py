"""./scripts/bench NAME [--json] [--quick] | report"""

import argparse
import importlib
import sys
from pathlib import Path

from benches import common

NAMES = ("bus", "responsive", "soak", "fuzz", "generate", "precision", "priority")
REPORT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./scripts/bench", description="Measure.")
    parser.add_argument("name", choices=(*NAMES, "report"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the work, for a first look"
    )
    options = parser.parse_args()
    if options.name == "report":
        report()
    else:
        common.show(measure(options.name, options.quick), options.json)
    return 0


def measure(name: str, quick: bool) -> common.Bench:
    bench: common.Bench = importlib.import_module(f"benches.{name}").run(quick)
    return bench


def report() -> None:
    facts = "\n".join(f"- {key}: {value}" for key, value in common.machine().items())
    parts = ["# Benchmarks", "", "Written by `./scripts/bench report`.", "", facts, ""]
    for name in NAMES:
        result = measure(name, quick=False)
        common.show(result, as_json=False)
        parts.append(common.markdown(result))
    REPORT.write_text("\n".join(parts))
    print(f"written to {REPORT}")


if __name__ == "__main__":
    sys.exit(main())
