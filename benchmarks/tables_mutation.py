"""Table of mutation testing: which share of mistakes the tests notice, by part of the core."""

from pathlib import Path

from tables_shared import origin, read, table

COUNTED = ("killed", "stopped", "survived", "equivalent")


def mutation() -> str:
    """Counts by folder, the rate with its interval, and what survived."""
    report = read("mutation")
    results = report["results"]
    counts: dict[str, dict[str, int]] = {}
    for module, found in results["modules"].items():
        # A module of the package itself, or a folder of it.
        part = "/".join(Path(module).parts[:2])
        row = counts.setdefault(part, dict.fromkeys(COUNTED, 0))
        for key in COUNTED:
            row[key] += found[key]
    rows = [[f"`{part}`", *(str(row[key]) for key in COUNTED)] for part, row in counts.items()]
    rows.append(["all", *(str(sum(row[key] for row in counts.values())) for key in COUNTED)])
    low, high = results["rate_95_percent"]
    counted = results["sample"] - results["equivalent"]
    goal = results["goal"]
    rate = (
        f"\n{results['noticed']} of {counted} noticed: {results['rate']:.1%} (95 % interval {low:.1%} to {high:.1%}; "
        f"at least {goal['at_least']:.0%} is the goal: {'met' if goal['met'] else 'MISSED'}). Drawn from "
        f"{results['mutants_in_all']:,} mutants; {results['seconds'] / 60:.0f} minutes of one core.\n"
    )
    survivors = [f"- `{row['module']}`, `{row['function']}`: `{changed(row['diff'])}`" for row in results["survivors"]]
    listed = "\nNot noticed:\n\n" + "\n".join(survivors) + "\n" if survivors else ""
    return table(["part", *COUNTED], rows) + rate + listed + origin(report)


def changed(diff: list[str]) -> str:
    """The line that a mutant has in place of the right one."""
    return " ".join(line[1:].strip() for line in diff if line.startswith("+"))
