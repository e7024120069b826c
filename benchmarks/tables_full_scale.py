"""Table of the page of results: the commands of the published protocols, and what they would take."""

from tables_published import FID_STEPS, PROTOCOLS, command
from tables_shared import is_there, origin, read, table

PEAK = 989e12  # operations per second of an H100 in dense bfloat16 products
SHARES = (0.45, 0.30)  # of the peak, assumed
FID_SAMPLES = 50_000


def gpu_hours(operations: float) -> str:
    """Hours of one H100 at the assumed shares of its peak."""
    found = [operations / (share * PEAK) / 3600 for share in SHARES]
    if found[0] < 0.1:
        return "under 1"  # so few operations an update are not what takes the time
    digits = 0 if found[0] >= 10 else 1 if found[0] >= 1 else 2
    return " to ".join(f"{hours:,.{digits}f}" for hours in found)


def hours_of(name: str) -> str:
    """GPU hours of a protocol, MDM / VADD, estimated from its counted operations; or why there are none."""
    if name in read("toy2d")["results"]["toys"]:
        return "none; minutes on a CPU"
    counted = read("published")["results"].get(name) if is_there("published") else None
    if counted is None:
        return "not counted yet"
    operations = [counted["models"][model]["operations_of_update"] for model in ("mdm", "paper")]
    return " / ".join(gpu_hours(counted["updates"] * of_update) for of_update in operations)


def full_scale() -> str:
    """The command of each protocol, and GPU hours estimated from its counted operations."""
    report, rows = read("published") if is_there("published") else None, []
    for name in PROTOCOLS:
        counted = report["results"].get(name) if report else None
        cells = [name.replace("_", " "), f"`{command(name)}`"]
        if counted is None:
            rows.append([*cells, "", "", "", hours_of(name)])
            continue
        models = [counted["models"][model] for model in ("mdm", "paper")]
        sizes = " / ".join(f"{model['parameters']['model'] / 1e6:.1f}M" for model in models)
        operations = " / ".join(f"{model['operations_of_update'] / 1e12:,.3g}" for model in models)
        rows.append([*cells, sizes, operations, f"{counted['updates']:,} x {counted['batch_size']}", hours_of(name)])
    head = ["protocol", "command for VADD", "parameters, MDM / VADD", "10^12 operations an update", "updates x batch"]
    head.append("hours of one H100")
    if report is None:
        return table(head, rows)
    call = report["results"]["cifar10"]["models"]["paper"]["operations_of_call"]
    note = (
        f"\nEstimated, not measured on a GPU: counted operations x updates / ({PEAK / 1e12:.0f} x 10^12 a second, the "
        f"peak of an H100 in bfloat16, x an assumed share of {SHARES[0]:.0%} to {SHARES[1]:.0%}). Training alone; "
        f"{FID_SAMPLES:,} samples of CIFAR-10 at each of {', '.join(map(str, FID_STEPS))} steps add "
        f"{gpu_hours(call * FID_SAMPLES * sum(FID_STEPS))} hours by the same rule.\n"
    )
    return table(head, rows) + note + origin(report)
