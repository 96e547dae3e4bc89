"""Fit graphopt estimate to MLPerf results, and list its error at every one of them.

    python tools/bench_estimate.py --write --output docs/benchmarks/estimate.md

Deterministic. ``--write`` puts the constants into profiles/roofline/anchors.toml.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

from pages import publish
from shapes import SHAPES

from graphopt.files import read_text, write_text
from graphopt.model import Model
from graphopt.profiles import load_device
from graphopt.profiles.roofline import estimate, with_accelerators
from graphopt.profiles.roofline.anchors import (
    AMPERE,
    OFFLINE_BATCH,
    Anchor,
    Constants,
    anchors,
    devices_of,
)
from graphopt.toml import dump_toml

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "profiles" / "roofline" / "anchors.toml"
PAGE = "docs/benchmarks/estimate.md"
COMMAND = f"python tools/bench_estimate.py --write --output {PAGE}"
# The anchors say only that this is not small: the error falls with it to the end. Taken is the
# least whose error is within a tenth of the best.
BANDWIDTHS = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 1000.0)
WITHIN = 1.1
PEAK = Constants(compute=1.0, bandwidth=1.0, launch_us=0.0, launch_us_before=0.0)
START_SHARE, START_US = 0.5, 8.0
FIGURES = 4

Floors = Callable[[str], str]
"""device -> the name of the floor it has."""


@dataclass(frozen=True, slots=True)
class Point:
    """An anchor, and of each of its kernels the microseconds of computing and moving at the peaks.

    The fit looks at them thousands of times.
    """

    anchor: Anchor
    kernels: tuple[tuple[float, float], ...]

    def error(self, share: float, bandwidth: float, floor: float) -> float:
        """Return the logarithm of the estimated over the published time."""
        us = sum(floor + max(c / share, m / bandwidth) for c, m in self.kernels)
        return log(us / 1e3 / self.anchor.ms)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The share of the peak, and each floor in microseconds."""

    share: float
    floors: dict[str, float]

    def floor(self, name: str) -> float:
        """Return a floor; one that nothing was seen of is the geometric mean of the others."""
        known = [log(v) for v in self.floors.values()]
        return self.floors.get(name, exp(sum(known) / len(known)))


@cache
def model_of(name: str, batch: int) -> Model:
    """Return the model of an anchor."""
    return Model.from_onnx(SHAPES[name](batch=batch))


def point_of(anchor: Anchor) -> Point:
    """Lay the kernels of an anchor out."""
    device = with_accelerators(load_device(anchor.device), anchor.dla_tops)
    model = model_of(anchor.model, anchor.batch)
    found = estimate(model, device, precision="int8", constants=PEAK)
    return Point(anchor, tuple((k.compute_ms * 1e3, k.memory_ms * 1e3) for k in found.layers))


def rms(errors: Sequence[float]) -> float:
    """Return the root of the mean square."""
    return sqrt(sum(e * e for e in errors) / len(errors))


def errors_of(points: Sequence[Point], found: Fitted, bandwidth: float, of: Floors) -> list[float]:
    """Return the error at each point."""
    return [p.error(found.share, bandwidth, found.floor(of(p.anchor.device))) for p in points]


def fit_to(points: Sequence[Point], bandwidth: float, of: Floors) -> Fitted:
    """Minimize the mean square of the errors by pattern search over logarithms."""
    names = list(dict.fromkeys(of(p.anchor.device) for p in points))
    at = [log(START_SHARE), *[log(START_US)] * len(names)]

    def fitted(values: Sequence[float]) -> Fitted:
        return Fitted(exp(values[0]), {n: exp(v) for n, v in zip(names, values[1:], strict=True)})

    def loss(values: Sequence[float]) -> float:
        return rms(errors_of(points, fitted(values), bandwidth, of))

    best, step = loss(at), 0.5
    while step > 1e-5:
        before = best
        for place in range(len(at)):
            for move in (step, -step):
                tried = [v + move if i == place else v for i, v in enumerate(at)]
                if (found := loss(tried)) < best:
                    at, best = tried, found
        if best == before:
            step /= 2
    return fitted(at)


def left_out(points: Sequence[Point], bandwidth: float, of: Floors) -> list[float]:
    """Return the error at each point, by a fit to the other devices alone."""
    found: dict[str, float] = {}
    for device in devices_of(p.anchor for p in points):
        mine = [p for p in points if p.anchor.device == device]
        others = fit_to([p for p in points if p.anchor.device != device], bandwidth, of)
        for point, error in zip(mine, errors_of(mine, others, bandwidth, of), strict=True):
            found[point.anchor.name] = error
    return [found[p.anchor.name] for p in points]


def by_generation(device: str) -> str:
    """The floors in use: SMs from Ampere on copy to shared memory beside computing."""
    sm = load_device(device).sm
    return "before Ampere" if sm is not None and sm < AMPERE else "Ampere on"


VARIANTS: dict[str, Floors] = {
    "one floor": lambda _: "all",
    "two floors, by generation (in use)": by_generation,
    "a floor for each device": lambda device: device,
}


def measure() -> dict[str, Any]:
    """Fit, and judge."""
    points = [point_of(anchor) for anchor in anchors()]
    scanned = {}
    for bandwidth in BANDWIDTHS:
        found = fit_to(points, bandwidth, by_generation)
        scanned[bandwidth] = rms(errors_of(points, found, bandwidth, by_generation))
    least = min(scanned.values())
    bandwidth = next(b for b in BANDWIDTHS if scanned[b] <= WITHIN * least)
    variants = []
    for name, of in VARIANTS.items():
        found = fit_to(points, bandwidth, of)
        variants.append(
            {
                "variant": name,
                "parameters": 1 + len(found.floors),
                "rms": rms(errors_of(points, found, bandwidth, of)),
                "left_out_rms": rms(left_out(points, bandwidth, of)),
            }
        )
    fitted = fit_to(points, bandwidth, by_generation)
    constants = Constants(
        round(fitted.share, FIGURES),
        bandwidth,
        round(fitted.floor("Ampere on"), FIGURES),
        round(fitted.floor("before Ampere"), FIGURES),
    )
    rounded = Fitted(
        constants.compute,
        {"Ampere on": constants.launch_us, "before Ampere": constants.launch_us_before},
    )
    out = left_out(points, bandwidth, by_generation)
    rows = [
        {
            "device": p.anchor.device,
            "model": p.anchor.model,
            "scenario": p.anchor.scenario,
            "round": p.anchor.round,
            "source": p.anchor.source,
            "batch": p.anchor.batch,
            "quantile": p.anchor.quantile,
            "published_ms": p.anchor.ms,
            "estimated_ms": p.anchor.ms * exp(error),
            "error": exp(error) - 1,
            "left_out": exp(missing) - 1,
            "kernels": len(p.kernels),
        }
        for p, error, missing in zip(
            points, errors_of(points, rounded, bandwidth, by_generation), out, strict=True
        )
    ]
    return {
        "constants": asdict(constants),
        "rows": rows,
        "bandwidths": [{"bandwidth": b, "rms": e} for b, e in scanned.items()],
        "variants": variants,
    }


def write_fit(found: dict[str, Any]) -> None:
    """Replace what was fitted before, at the end of the file."""
    kept = read_text(FILE).partition("[fit]\n")[0]
    names = [f"{r['device']} {r['model']} {r['scenario']}" for r in found["rows"]]
    fit = {
        "date": datetime.date.today().isoformat(),
        "command": COMMAND,
        "constants": found["constants"],
        "errors": {
            n: round(r["error"], FIGURES) for n, r in zip(names, found["rows"], strict=True)
        },
        "left_out": {
            n: round(r["left_out"], FIGURES) for n, r in zip(names, found["rows"], strict=True)
        },
    }
    write_text(FILE, kept + dump_toml({"fit": fit}))


def page(found: dict[str, Any]) -> str:
    """Write the tables."""
    c, rows = found["constants"], found["rows"]
    spread = [abs(r["error"]) for r in rows]
    missing = [abs(r["left_out"]) for r in rows]
    told, told_out = (rms([log(1 + r[k]) for r in rows]) for k in ("error", "left_out"))
    lines = [
        "# The estimate against MLPerf",
        "",
        "What `graphopt estimate` says of models that NVIDIA submitted to MLPerf Inference (closed",
        "division, INT8, TensorRT), and what was published. Everything in the column *estimate* is",
        "an **estimate**; nothing here was measured by graphopt.",
        "",
        f"**{len(rows)} points, 3 fitted parameters** (and one chosen): the share of the peak",
        f"that is attained, {c['compute']:.3f}; the time of a kernel with nothing to do,",
        f"{c['launch_us']:.1f} µs from Ampere on and {c['launch_us_before']:.1f} µs before.",
        f"Chosen: {c['bandwidth']:g} times the memory bandwidth, because caches serve some of what",
        "is moved. *Left out*: each device by constants that were fitted to the other devices",
        "alone, which is what to expect of a device that is not in this table.",
        "",
        f"Worst error {100 * max(spread):.0f} %, root mean square {100 * told:.0f} %; left out "
        f"{100 * max(missing):.0f} % and {100 * told_out:.0f} %.",
        "",
        "| Device | Model | Scenario | Round | Published ms | Estimate ms | Error | Left out |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        scenario = f"{r['scenario']}, batch {r['batch']}" if r["batch"] > 1 else r["scenario"]
        lines.append(
            f"| {r['device']} | {r['model']} | {scenario} | {r['round'] or '–'} "
            f"| {r['published_ms']:.3f} ({r['quantile']}) | {r['estimated_ms']:.3f} "
            f"| {100 * r['error']:+.0f} % | {100 * r['left_out']:+.0f} % |"
        )
    lines += [
        "",
        f"Offline is a throughput: its time is that of {OFFLINE_BATCH} images at that rate,",
        f"compared with one run of batch {OFFLINE_BATCH}; submissions used others. On",
        "Xavier and Orin, Offline also ran two DLA: their INT8 TOPS are added to the GPU's peak.",
        "SSD-MobileNet is known as p90 only, without its round, and ran with a non-maximum",
        "suppression that the model here lacks. The models are those of `tools/shapes.py`: the",
        "published shapes with random weights. Sources: NVIDIA's logs in",
        "`mlcommons/inference_results_v0.7`, `_v1.1` and `_v3.1` on GitHub.",
        "",
        "What else was tried, the same bandwidth:",
        "",
        "| Variant | Parameters | RMS error | Left out |",
        "|---|---|---|---|",
        *(
            f"| {v['variant']} | {v['parameters']} | {100 * v['rms']:.0f} % "
            f"| {100 * v['left_out_rms']:.0f} % |"
            for v in found["variants"]
        ),
        "",
        "And other shares of the bandwidth, two floors. The points do not tell how much is moved:",
        f"the least is taken that is within {100 * (WITHIN - 1):.0f} % of the best.",
        "",
        "| Times the bandwidth | RMS error |",
        "|---|---|",
        *(f"| {b['bandwidth']:g} | {100 * b['rms']:.1f} % |" for b in found["bandwidths"]),
        "",
        "Made by:",
        "",
        "```",
        COMMAND,
        "```",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    parser.add_argument("--write", action="store_true", help="put the constants to use")
    arguments = parser.parse_args()
    found = measure()
    if arguments.write:
        write_fit(found)
    publish(page(found), found, arguments.output)


if __name__ == "__main__":
    main()
