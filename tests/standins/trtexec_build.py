"""How the stand-in trtexec builds: the order, the refusals and the words of the real one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import trtexec_computes as computing
import trtexec_network as network_of
import trtexec_options as options_of
import trtexec_writes as writes

_ENDS = ("min", "max")


class Failed(Exception):
    """The run fails; args: the [E] lines."""


class Building:
    """The half of a run that makes an engine; the other half is in ``trtexec_run``."""

    behaviour: Any
    version: tuple[int, int, int]
    say: Any
    step: Any
    write: Any
    precision: Any

    def built(self, options: options_of.Options) -> dict[str, Any]:
        path = Path(options.get("--onnx"))
        self.say("[TRT] [MemUsageChange] Init CUDA: CPU +12, GPU +0, now: CPU 36, GPU 7000 (MiB)")
        self.say("Start parsing network model")
        self.step("parse")
        try:
            found = network_of.load(path, self.version)
        except network_of.Refused as refused:
            raise Failed(*self.refusal(refused)) from None
        self.say(f"[TRT] Opset version:    {found.opset}")
        self.say(
            "Finish parsing network model"
            if self.version < (8, 6)
            else "Finished parsing network model. Parse time: 0.0382958"
        )
        shapes = self.profile_shapes(options, found)
        layers = network_of.shaped_layers(path, shapes)
        if not options.has("--stronglyTyped") and self.version < (11, 0, 0):
            self.check_weak(options, found)
        elif options.has("--stronglyTyped") and self.version < (11, 0, 0):
            for flag, name in (("--fp16", "FP16"), ("--int8", "INT8")):
                if options.has(flag):
                    self.say(
                        f"Invalid usage, setting {flag[2:]} mode is not allowed if graph is "
                        f"strongly typed. Disabling BuilderFlag::k{name}.",
                        "W",
                    )
        covered = self.check_calibration(options, found)
        dla = self.check_dla(options, found, layers)
        self.timing_cache(options, "read")
        self.step("build")
        for layer in layers:
            if options.has("--verbose"):
                self.say(f"[TRT] Timing Runner: {layer.name} (Cask)", "V")
            if self.behaviour.slow:
                time.sleep(self.behaviour.slow)
        self.say(
            "[TRT] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU "
            "116 MiB, GPU 4 MiB"
        )
        self.timing_cache(options, "write")
        facts = self.facts(options, found, layers, shapes, covered, dla)
        self.step("save")
        save = options.get("--saveEngine")
        blob = writes.engine_bytes(self.version, self.behaviour.build, facts)
        if not self.write(save, "save", blob):
            raise Failed("Saving engine to file failed.", "Engine set up failed")
        return facts

    def refusal(self, refused: network_of.Refused) -> list[str]:
        lines = []
        node = refused.node
        if node is not None:
            lines.append(
                f"[TRT] ModelImporter.cpp:771: While parsing node number {refused.number} "
                f'[{node.op_type} -> "{node.output[0]}"]:'
            )
            lines.append("[TRT] ModelImporter.cpp:772: --- Begin node ---")
            lines.append("[TRT] ModelImporter.cpp:773: " + str(node).rstrip())
            lines.append("[TRT] ModelImporter.cpp:774: --- End node ---")
        lines.append(
            "[TRT] ModelImporter.cpp:777: ERROR: builtin_op_importers.cpp:1235 In function "
            f"QuantDequantLinearHelper:\n[6] {refused}"
        )
        return [*lines, "Failed to parse onnx file", *self.unwound("Parsing model failed")]

    def unwound(self, first: str) -> list[str]:
        return [first, "Failed to create engine from model or file.", "Engine set up failed"]

    def profile_shapes(
        self, options: options_of.Options, found: network_of.Network
    ) -> dict[str, tuple[int, ...]]:
        dynamic = {name: shape for name, shape in found.inputs.items() if -1 in shape}
        profiles = [p for p in options.profiles if p] or (
            [{"opt": options.shapes}] if options.shapes else []
        )
        if profiles and not dynamic:
            raise Failed(
                "Static model does not take explicit shapes since the shape of inference tensors "
                "will be determined by the model itself",
                *self.unwound("Network And Config setup failed"),
            )
        for profile in profiles:
            for name, shape in profile["opt"].items():
                if name not in found.inputs:
                    raise Failed(
                        f'Cannot find input tensor with name "{name}" in the network inputs! '
                        "Please make sure the input tensor names are correct.",
                        *self.unwound("Network And Config setup failed"),
                    )
                declared = found.inputs[name]
                if len(declared) != len(shape) or any(
                    d not in (-1, s) for d, s in zip(declared, shape, strict=True)
                ):
                    raise Failed(
                        f"[TRT] {name}: kOPT dimensions in profile 0 are {list(shape)} but input "
                        f"has static dimensions {list(declared)}.",
                        *self.unwound("Required optimization profile is invalid"),
                    )
        shapes = {}
        for name, shape in found.inputs.items():
            given = profiles[0]["opt"].get(name) if profiles else None
            if given is None and name in dynamic:
                given = tuple(max(1, d) for d in shape)
                self.say(
                    f"Dynamic dimensions required for input: {name}, but no shapes were provided. "
                    f"Automatically overriding shape to: {'x'.join(map(str, given))}",
                    "W",
                )
            shapes[name] = given or shape
        return shapes

    def check_weak(self, options: options_of.Options, found: network_of.Network) -> None:
        for held, flag, name in (
            (found.quantized, "--int8", "Int8"),
            (found.half, "--fp16", "fp16"),
        ):
            if held and not options.has(flag):
                raise Failed(
                    f"Error[4]: [network.cpp::validate::2738] Error Code 4: Internal Error ({name} "
                    "precision has been set for a layer or layer output, but "
                    f"{name.lower()} is not configured in the builder)",
                    "Engine could not be created from network",
                    *self.unwound("Building engine failed"),
                )

    def check_calibration(
        self, options: options_of.Options, found: network_of.Network
    ) -> set[str] | None:
        """Return the tensors with a range, or None without a cache."""
        if not options.has("--calib"):
            if options.has("--int8") and not found.quantized:
                self.say(
                    "[TRT] Calibrator is not being used. Users must provide dynamic range for all "
                    "tensors that are not Int32 or Bool.",
                    "W",
                )
            return None
        unit = 1000 if self.version[0] < 10 else 10000
        number = self.version[0] * unit + self.version[1] * 100 + self.version[2]
        try:
            lines = Path(options.get("--calib")).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            lines = []
        if found.quantized:
            self.say("[TRT] Calibrator won't be used in explicit precision mode.", "W")
            return None
        if not lines or lines[0] != f"TRT-{number}-EntropyCalibration2":
            self.say("[TRT] Starting Calibration.")
            raise Failed(
                "Error[1]: [calibrator.cu::add::735] Error Code 1: Cuda Runtime (an illegal memory "
                "access was encountered)",
                "Engine could not be created from network",
                *self.unwound("Building engine failed"),
            )
        self.say("[TRT] Reading Calibration Cache for calibrator: EntropyCalibration2")
        ranges = {line.rsplit(": ", 1)[0] for line in lines[1:] if line}
        for name in found.tensors:
            if name not in ranges:
                self.say(
                    f"[TRT] Missing scale and zero-point for tensor {name}, expect fall back to "
                    "non-int8 implementation for any layer consuming or producing given tensor",
                    "W",
                )
        return ranges

    def check_dla(
        self, options: options_of.Options, found: network_of.Network, layers: list[Any]
    ) -> int | None:
        if not options.has("--useDLACore"):
            return None
        core = int(options.get("--useDLACore"))
        if core >= self.behaviour.dla_cores:
            raise Failed(
                f"Cannot create DLA engine, {core} not available",
                *self.unwound("Network And Config setup failed"),
            )
        if self.version < (8, 6, 0) and found.quantized:
            raise Failed(
                "Error[9]: [standardEngineBuilder.cpp::buildEngine::2171] Error Code 9: Internal "
                "Error (Q/DQ layers are not supported on DLA)",
                "Engine could not be created from network",
                *self.unwound("Building engine failed"),
            )
        for layer in network_of.not_on_dla(layers):
            if not options.has("--allowGPUFallback"):
                raise Failed(
                    f"Error[4]: [network.cpp::validate::2789] Error Code 4: Internal Error (Layer "
                    f"{layer.name} is not supported on DLA and GPU fallback is not enabled.)",
                    "Engine could not be created from network",
                    *self.unwound("Building engine failed"),
                )
            self.say(
                f"[TRT] Layer '{layer.name}' ({layer.op.upper()}): Unsupported on DLA. Switching "
                "this layer's device type to GPU.",
                "W",
            )
        return core

    def timing_cache(self, options: options_of.Options, doing: str) -> None:
        path = options.get("--timingCacheFile")
        if not path:
            if doing == "read":
                self.say(
                    "[TRT] Local timing cache in use. Profiling results in this builder pass will "
                    "not be stored."
                )
            return
        if doing == "read":
            if Path(path).is_file():
                self.say(f"Loaded {Path(path).stat().st_size} bytes of timing cache from {path}")
            else:
                self.say(
                    f"Could not read timing cache from: {path}. A new timing cache will be "
                    "generated and written.",
                    "W",
                )
            return
        blob = b"timing cache of " + ".".join(map(str, self.version)).encode() + b"\0" * 64
        self.write(path, "cache", blob)
        self.say(f"Saved {len(blob)} bytes of timing cache to {path}")

    def facts(
        self,
        options: options_of.Options,
        found: network_of.Network,
        layers: list[Any],
        shapes: dict[str, tuple[int, ...]],
        covered: set[str] | None,
        dla: int | None,
    ) -> dict[str, Any]:
        told = []
        for layer in layers:
            int8 = layer.int8 or bool(covered and layer.op == "Conv" and layer.inputs[0] in covered)
            half = found.half or (options.has("--fp16") and not options.has("--stronglyTyped"))
            speed = 4.0 if int8 else 2.0 if half else 1.0
            # A floor for each kernel, then a billion multiply-accumulates a millisecond in fp32.
            share = 0.001 + layer.macs / speed / 1e9
            told.append(
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "op": layer.op,
                    "int8": int8,
                    "inputs": layer.inputs,
                    "outputs": layer.outputs,
                    "share": share,
                }
            )
        return {
            "sm": self.behaviour.sm,
            "gpu": self.behaviour.gpu,
            "dla": dla,
            "verbosity": options.get("--profilingVerbosity", "layer_names_only"),
            "precision": self.precision(options),
            "inputs": {name: list(shape) for name, shape in found.inputs.items()},
            "outputs": found.outputs,
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "ranges": {
                name: [list(first.get(which, first["opt"]).get(name, shape)) for which in _ENDS]
                for first in [options.profiles[0] or {"opt": options.shapes}]
                for name, shape in shapes.items()
            },
            "onnx": computing.embedded(Path(options.get("--onnx"))),
            "profiles": len(options.profiles),
            "layers": told,
            "ms": sum(layer["share"] for layer in told),
        }
