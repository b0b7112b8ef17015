"""./scripts/bench NAME [--json] [--quick] | report"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks import common
from sovl_daemon.laboratory.plot import PlotError, check

# In the order of the report.
MODULES = (
    "benchmarks.bus",
    "benchmarks.responsive",
    "tests.torture.soak",
    "tests.torture.starts",
    "experiments.control",
    "tests.torture.night_kills",
    "tests.torture.fuzz",
    "benchmarks.generate",
    "benchmarks.precision",
    "benchmarks.priority",
    "benchmarks.neighbours",
    "benchmarks.judge",
    "experiments.learn",
    "experiments.nights",
    "benchmarks.train",
    "tests.torture.pressure",
    "benchmarks.reaction",
    "tests.torture.control_kills",
    "tests.torture.large_prompts",
    "tests.torture.long_life",
    "tests.torture.stops",
)
NAMES = {module.rpartition(".")[2]: module for module in MODULES}
REPORT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./scripts/bench", description="Measure.")
    parser.add_argument("name", choices=(*NAMES, "report"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the work, for a first look"
    )
    parser.add_argument("--facts", type=int, help="learn: how many facts (20)")
    parser.add_argument("--seeds", type=int, help="learn: how many nights (3)")
    parser.add_argument("--first", type=int, help="starts, stops: go on after so many (0)")
    parser.add_argument("--minutes", type=float, help="starts, stops: begin none after so long")
    parser.add_argument("--plot", type=Path, help="nights: a picture too, in a .png or .svg file")
    options = parser.parse_args()
    if options.plot is not None:
        try:
            check(options.plot)
        except PlotError as error:
            parser.error(str(error))
    if options.name == "report":
        report()
    else:
        common_options = ("name", "json", "quick")
        more = {
            name: value
            for name, value in vars(options).items()
            if value is not None and name not in common_options
        }
        common.show(measure(options.name, options.quick, **more), options.json)
    return 0


def measure(name: str, quick: bool, **options: Any) -> common.Bench:
    bench: common.Bench = importlib.import_module(NAMES[name]).run(quick, **options)
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
