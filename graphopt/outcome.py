"""What the result is worth: the metrics of the report and the verdict of the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from graphopt.bits import Bits
from graphopt.console import Console
from graphopt.cost import cost, stored_bytes
from graphopt.engines import Artifact
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.layerwise import SAMPLES, layer_losses
from graphopt.measure import fidelity, timings
from graphopt.model import Model
from graphopt.optimize import Optimized
from graphopt.plan import BuildPlan
from graphopt.prepare_data import NO_GATE
from graphopt.profiles import LatencyProfile
from graphopt.profiles.roofline import estimate
from graphopt.report import Metric, Report, engine_latency
from graphopt.verify import Fidelity

CPU_DIALECT = "onnxruntime"


class Outcome:
    """Measures a finished build.

    Args:
        plan: what was asked for.
        done: the fp32 models.
        bits: the model in fewer bits, or None.
    """

    def __init__(self, plan: BuildPlan, done: Optimized, bits: Bits | None) -> None:
        self.plan, self.done, self.bits = plan, done, bits
        self.fidelity: dict[str, Fidelity] = {}

    @property
    def last(self) -> str:
        """The column of the model that ships: ``"fp32"``, ``"int8"`` or ``"int8+fp16"``."""
        return self.plan.precision

    @property
    def _by_flag(self) -> str:
        """What to add where the engine, unlike the graph, may compute in FP16."""
        return ", with FP16 where TensorRT chooses it" if self.plan.options.fp16 else ""

    def measure(
        self, files: Mapping[str, Path], engine: Artifact | None, report: Report, ui: Console
    ) -> None:
        """Measure size, parameters, MACs, fidelity and latency, before and after.

        Args:
            files: column -> the ONNX file whose size is shown there.
            engine: what was built, or None.
            report: takes the figures.
            ui: shows progress.
        """
        self._sizes(files, engine, report)
        if engine is not None and engine.latency is not None:
            self._device_latency(engine.latency, report)
        self._estimate(report)
        if self.plan.unrunnable:
            return
        with report.stage("verify"):
            self._fidelity(report, ui)
        if self.bits is not None:
            with report.stage("verify-layers"):
                self._layers(self.bits, report, ui)
        with report.stage("time"):
            self._latency(report, ui)

    def _sizes(self, files: Mapping[str, Path], built: Artifact | None, report: Report) -> None:
        engine = None if built is None else built.path
        source = self.plan.request.model
        size = {"before": source.stat().st_size, **{n: p.stat().st_size for n, p in files.items()}}
        weights = {"before": stored_bytes(self.plan.model), "fp32": stored_bytes(self.done.model)}
        if self.bits is not None:
            weights[self.last] = stored_bytes(self.bits.model)
        report.metrics.append(Metric("ONNX size", "bytes", size))
        held = "as the runtime holds them: quantized ones 1 byte"
        if self.plan.implicit:
            held = "if TensorRT, which chooses by itself, runs every layer in INT8 that it can"
        report.metrics.append(Metric("weights", "bytes", weights, held))
        if engine is not None and engine.suffix != ".onnx":
            note = f"{engine.name}: weights, and kernels for every GPU it is built for"
            note = note if self.plan.engine.name == "tensorrt-rtx" else engine.name
            note += self._by_flag
            report.metrics.append(
                Metric("engine size", "bytes", {self.last: engine.stat().st_size}, note)
            )
        opt = {name: s.opt for name, s in self.plan.shapes.items()}
        # As given, a model may compute its shapes; simplified, with every channel, it says them.
        before, after = cost(self.done.folded, opt), cost(self.done.model, opt)
        # Quantizing changes how wide a weight is, not how many there are.
        uncounted = sorted({*before.unknown, *after.unknown})
        told = f"{len(uncounted)} nodes of unknown shape are not counted" if uncounted else ""
        for name, a, b, note in (
            ("parameters", self.plan.model.parameters(), after.parameters, ""),
            ("MACs", before.macs, after.macs, told),
        ):
            if a or not note:
                values = {"before": a, "fp32": b, self.last: b}
                report.metrics.append(Metric(name, "", values, note))

    def _fidelity(self, report: Report, ui: Console) -> None:
        source, data = self.plan.request.model, self.plan.evaluation
        told = "the model as given"
        if self.plan.original is not None:
            # A model pruned elsewhere is judged, as it came and recovered, by what it was before.
            source = Path(str(self.plan.request.recipe.recover.original))
            told = f"{source.name}, before it was pruned"
            self.fidelity["before"] = fidelity(
                source, self.plan.model, data, ui, exact=False, what="the model as given"
            )
        self.fidelity["fp32"] = fidelity(
            source, self.done.model, data, ui, exact=False, what="fp32"
        )
        if self.bits is not None:
            # What is for TensorRT is run as written, not fused ONNX Runtime's way, which for
            # Q/DQ differs, and for INT4 weights quantizes activations too (MatMulNBits).
            exact = self.plan.engine.dialect != CPU_DIALECT
            self.fidelity[self.last] = fidelity(
                source, self.bits.model, data, ui, exact=exact, what=self.last
            )
        report.fidelity = {
            "data": data.summary(),
            "reference": told,
            **{name: f.to_json() for name, f in self.fidelity.items()},
        }
        self._warn_of_nan(ui)
        note = "on random inputs: no accuracy figure" if data.synthetic else ""
        accuracy = {n: f.accuracy_b for n, f in self.fidelity.items()}
        accuracy.setdefault("before", self.fidelity["fp32"].accuracy_a)
        agreement = {n: f.top1_agreement for n, f in self.fidelity.items()}
        sqnr = {n: f.sqnr_db for n, f in self.fidelity.items()}
        for name in [n for n, f in self.fidelity.items() if f.total.identical]:
            report.decide("fidelity", "bit-identical", f"{name}: no output changed")
            ui.info(f"{name}: every output is bit-identical to the model as given")
        for name, unit, scale, values in (
            ("accuracy", "%", 100, accuracy),
            ("top-1 agreement", "%", 100, agreement),
            ("SQNR", "dB", 1, sqnr),
        ):
            known = {n: scale * v for n, v in values.items() if v is not None and math.isfinite(v)}
            notes = [note]
            if self.plan.implicit and self.last in known:
                asked = self.plan.request.recipe.quantize
                own = "layers and ranges" if asked.gpu_calibration else "layers"
                notes.append(f"Q/DQ stands for implicit INT8, whose {own} TensorRT chooses itself")
            if self.plan.options.fp16:
                notes.append("without FP16, which TensorRT chooses layers for by itself")
            elif name == "SQNR" and self.plan.half:
                notes.append("a CPU computes part of fp16 in fp32")
            if known:
                report.metrics.append(Metric(name, unit, known, "; ".join(filter(None, notes))))

    def _layers(self, bits: Bits, report: Report, ui: Console) -> None:
        """Tell what each layer's output lost against the float32 model it was made from."""
        data = self.plan.evaluation
        with ui.progress("comparing layers", min(len(data), SAMPLES)) as advance:
            losses = layer_losses(
                bits.base,
                bits.model,
                data,
                exact=self.plan.engine.dialect != CPU_DIALECT,
                shapes={name: s.opt for name, s in self.plan.shapes.items()},
                progress=advance,
            )
        report.layers = [loss.to_json() for loss in losses]

    def _warn_of_nan(self, ui: Console) -> None:
        if self.fidelity["fp32"].total.nonfinite_a:
            ui.warn("the model as given returns NaN or infinity on these samples")
        for name, found in self.fidelity.items():
            if found.total.mismatched:
                ui.warn(
                    f"{name}: {found.total.mismatched} values are NaN or infinite in one model and "
                    "not in the other"
                )

    def _latency(self, report: Report, ui: Console) -> None:
        plan = self.plan
        candidates: dict[str, Model | Path] = {
            "before": plan.request.model,
            "fp32": self.done.model,
        }
        note = "this CPU, ONNX Runtime, median"
        if self.bits is not None and self.plan.half:
            note += "; a CPU computes fp16 by way of fp32, so that is not timed"
        if self.bits is not None and self.bits.for_cpu is not None:
            candidates[self.last] = self.bits.for_cpu
            if self.bits.for_cpu is not self.bits.model:
                # What TensorRT fuses is slow on ONNX Runtime: time the CPU's own placement.
                note += f"; {self.last} re-placed for the CPU, which is not the engine"
        ui.info("timing on this CPU with ONNX Runtime, interleaved")
        feeds = next(iter(plan.evaluation.batches(1)))
        timed = timings(candidates, feeds)
        profiles = timed.profiles
        report.latency.update({name: profile.to_json() for name, profile in profiles.items()})
        last = list(profiles)[-1]
        found = timed.compare("before", last)
        if found is not None:
            note += f"; {last} takes {_share(found.low)} to {_share(found.high)} % of the time "
            note += f"({100 * found.confidence:.0f} % confidence)"
            told = ("change", "low", "high", "confidence", "rounds", "openings")
            report.comparison["before_to_last"] = {n: getattr(found, n) for n in told} | {
                "column": last
            }
        values = {name: profile.p50 for name, profile in profiles.items()}
        report.metrics.append(Metric("latency", "ms", values, note))

    def _estimate(self, report: Report) -> None:
        """Tell what the device may take, where it is one that something is known of."""
        device = self.plan.device
        if device.sm is None or not device.peaks or device.bandwidth_gbs is None:
            return
        shapes = {name: s.opt for name, s in self.plan.shapes.items()}
        shipped = self.done.model if self.bits is None else self.bits.model
        try:
            before = estimate(self.done.folded, device, shapes=shapes)
            after = estimate(shipped, device, shapes=shapes)
        except (UsageError, UnsupportedModelError) as problem:
            report.decide("estimate", "none", str(problem))
            return
        report.roofline = after.to_json()
        values = {"before": before.ms, self.last: after.ms}
        note = (
            f"{device.name}, batch {after.batch}: nothing was measured there; {self.last} between "
            f"{after.low_ms:.3f} and {after.high_ms:.3f} ms by the error at the reference points"
        )
        report.metrics.append(Metric("ESTIMATED latency", "ms", values, note))

    def _device_latency(self, profile: LatencyProfile, report: Report) -> None:
        """Take over what the engine took on its own device."""
        report.latency["engine"] = profile.to_json()
        report.metrics.append(engine_latency(profile, self.last, also=self._by_flag))

    def gate(self, report: Report) -> str:
        """Hold the result against its limits; return what failed, or an empty string.

        Raises:
            UnsupportedModelError: there are neither labels nor class scores to judge by.
        """
        limits = self.plan.request.recipe.gate
        final = self.fidelity.get(self.last)
        if final is None:
            return ""
        told = []
        if limits.max_drop is not None:
            drop = final.drop_points()
            if drop is None:
                raise UnsupportedModelError(NO_GATE)
            metric = "top-1 agreement" if final.accuracy_a is None else "accuracy"
            # A drop of exactly the limit passes.
            if _judge(report, "max-drop", metric, drop, limits.max_drop, drop - limits.max_drop):
                told.append(
                    f"{metric} fell by {drop:.2f} points; --max-drop allows {limits.max_drop:g}"
                )
        if limits.min_sqnr is not None:
            sqnr, least = final.sqnr_db, limits.min_sqnr
            if _judge(report, "min-sqnr", "SQNR", sqnr, least, least - sqnr):
                told.append(f"SQNR is {sqnr:.2f} dB; --min-sqnr asks for {least:g}")
        found = None if self.bits is None else self.bits.found
        if told and found is not None:
            left = f"with {len(found.exclude)} of {found.candidates} layers in floating point"
            told.append(f"that is the best of {found.evaluations} models tried, {left}")
            if found.in_float is not None:
                told.append(f"without INT8 it is missed too ({found.in_float.verdict})")
        return "; ".join(told)


def _share(change: float) -> str:
    """Return a ratio - 1 as per cent of the whole, to three digits."""
    return f"{100 * (1 + change):.3g}"


def _judge(
    report: Report, name: str, metric: str, value: float, limit: float, beyond: float
) -> bool:
    """Put a gate into the report; return whether it failed."""
    failed = beyond > 1e-9
    report.gates.append(
        {
            "name": name,
            "metric": metric,
            "value": round(value, 6) if math.isfinite(value) else None,
            "limit": limit,
            "unit": "dB" if name == "min-sqnr" else "points",
            "status": "fail" if failed else "pass",
        }
    )
    return failed
