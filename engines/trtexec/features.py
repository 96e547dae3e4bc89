"""What one trtexec takes: asked of its ``--help``, or read from a record where none is at hand.

The record holds flag names only, by the line of TensorRT. Where each list comes from:

- 8.5: the ``--help`` of 8.5.3 (``v8503``).
- 8.6: ``samples/common/sampleOptions.cpp`` of NVIDIA/TensorRT at release 8.6.
- 10.0, 10.9: the ``--help`` of 10.5 (``v100500 b18``). Unsure: that 10.0 to 10.4 have every one of
  them; what graphopt itself writes is in NVIDIA's list of changes from 8.x to 10.x, or in logs of
  10.0. 10.9 has more, none of which graphopt writes.
- 10.13: ``sampleOptions.cpp`` of a later 10.x. Unsure: which flags that graphopt does not write
  came after 10.13.
- 11.0: ``sampleOptions.cpp`` of 11, which lists ``--stronglyTyped``, ``--useCudaGraph``,
  ``--useSpinWait``, ``--noDataTransfers`` and ``--separateProfileRun`` as taken and without effect.
  Unsure: that 11.0 has the tuning options already.
- 11.5: what its release notes add to that.

Flags that a version takes but does not list (``--buildOnly`` in 8.6, ``--explicitBatch`` in 8.x)
are not recorded: what is not listed is on its way out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.engines.releases import RELEASES, Release, Version, release_of
from graphopt.errors import EnvironmentProblem
from graphopt.wording import one_line

_MOST_CHARACTERS = 1 << 20
_BANNER = re.compile(r"\[TensorRT v(\d{4,6})\]")
# A flag stands at the start of its line; the examples inside descriptions are indented deeper.
_LINE = re.compile(r"^ {0,6}(--[A-Za-z]\w*)(.*)$")
_ALIAS = re.compile(r"^(?:\[?=\S*)?, (--?[A-Za-z]\w*)")
_NEEDED = ("--onnx", "--saveEngine", "--loadEngine", "--exportTimes")


@dataclass(frozen=True, slots=True)
class Features:
    """One trtexec.

    Attributes:
        version: of its TensorRT: major, minor, patch.
        flags: every option it lists, with its dashes: ``"--onnx"``.
    """

    version: Version
    flags: frozenset[str]

    @classmethod
    def from_help(cls, text: str) -> Features:
        """Read what ``trtexec --help`` printed, its first line (the banner) included.

        Raises:
            EnvironmentProblem: that is no help of trtexec's, or of one too old for graphopt.
        """
        if len(text) > _MOST_CHARACTERS:
            raise EnvironmentProblem(
                f"trtexec --help printed {len(text):,} characters: this is not TensorRT's trtexec"
            )
        version = banner_version(text)
        if version is None:
            start = one_line(text, 80) or "nothing"
            raise EnvironmentProblem(
                "trtexec --help does not say '[TensorRT v…]': this is not TensorRT's trtexec, or "
                f"it cannot start (it printed: {start})"
            )
        if version < RELEASES[0].version:
            raise EnvironmentProblem(
                f"trtexec is of TensorRT {_dotted(version)}: graphopt builds with "
                f"{RELEASES[0].name} and newer"
            )
        flags: set[str] = set()
        for line in text.splitlines():
            found = _LINE.match(line)
            if found:
                flags.add(found[1])
                alias = _ALIAS.match(found[2])
                if alias:
                    flags.add(alias[1])
        lacking = [flag for flag in _NEEDED if flag not in flags]
        if lacking:
            raise EnvironmentProblem(
                f"trtexec --help of TensorRT {_dotted(version)} does not list {lacking[0]}: its "
                "output was cut short, or it is not TensorRT's trtexec"
            )
        return cls(version, frozenset(flags))

    @classmethod
    def of(cls, version: Version) -> Features:
        """Return what is recorded for the line that ``version`` belongs to.

        Raises:
            UsageError: the version is older than all that graphopt knows.
        """
        release_of(version)
        return cls(version, [flags for since, flags in _RECORD if since <= version][-1])

    @property
    def release(self) -> Release:
        """What is known of the line its TensorRT belongs to."""
        return release_of(self.version)

    @property
    def name(self) -> str:
        """What a person calls it: ``"trtexec 8.5.2"``."""
        return f"trtexec {_dotted(self.version)}"

    @property
    def weak_typing(self) -> bool:
        """Precision is allowed by flags: all before 11."""
        return "--fp16" in self.flags

    @property
    def strong_typing(self) -> bool:
        """Networks can be strongly typed, by a flag or always."""
        return "--stronglyTyped" in self.flags or not self.weak_typing

    @property
    def implicit(self) -> bool:
        """It reads INT8 calibration caches."""
        return "--calib" in self.flags and "--int8" in self.flags

    @property
    def several_profiles(self) -> bool:
        """An engine can be built for more than one optimization profile."""
        return "--profile" in self.flags and "--useProfile" in self.flags

    @property
    def build_only(self) -> str | None:
        """The flag that ends the run after the build, or None."""
        return next((f for f in ("--skipInference", "--buildOnly") if f in self.flags), None)


def banner_version(text: str) -> Version | None:
    """Return the version in a banner: ``v8502`` is 8.5.2, ``v100300`` is 10.3.0; None without one.

    Up to 9 it is major * 1000 + minor * 100 + patch, from 10 on major * 10000 + …
    """
    found = _BANNER.search(text)
    if found is None:
        return None
    number = int(found[1])
    unit = 1000 if number < 10_000 else 10_000
    return number // unit, number % unit // 100, number % 100


def banner_number(version: Version) -> int:
    """Return the number a banner and a calibration cache hold for a version: 8502, 100300."""
    unit = 1000 if version[0] < 10 else 10_000
    return version[0] * unit + version[1] * 100 + version[2]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALL = _names(
    """
    --onnx --minShapes --optShapes --maxShapes --inputIOFormats --outputIOFormats --memPoolSize
    --profilingVerbosity --avgTiming --refit --sparsity --noTF32 --directIO --safe
    --consistency --allowGPUFallback --saveEngine --loadEngine --tacticSources --noBuilderCache
    --timingCacheFile --preview --shapes --loadInputs --iterations --warmUp --duration
    --sleepTime --idleTime --exposeDMA --noDataTransfers --useManagedMemory --useSpinWait
    --threads --useCudaGraph --timeDeserialize --timeRefit --separateProfileRun
    --persistentCacheRatio --verbose --avgRuns --percentile --dumpRefit --dumpOutput
    --dumpProfile --dumpLayerInfo --exportTimes --exportOutput --exportProfile
    --exportLayerInfo --device --useDLACore --help -h
    """
)
_WEAK = _names(
    """
    --minShapesCalib --optShapesCalib --maxShapesCalib --fp16 --int8 --best --calib
    --precisionConstraints --layerPrecisions --layerOutputTypes --restricted
    """
)
_8 = _names(
    """
    --uff --model --deploy --output --uffInput --uffNHWC --maxBatch --workspace --minTiming
    --heuristic --batch
    """
)
_8_5 = _ALL | _WEAK | _8 | {"--streams", "--buildOnly", "--plugins"}
_FROM_8_6 = _names(
    """
    --versionCompatible --vc --useRuntime --leanDLLPath --excludeLeanRuntime --layerDeviceTypes
    --buildDLAStandalone --builderOptimizationLevel --hardwareCompatibilityLevel --tempdir
    --tempfileControls --maxAuxStreams --infStreams --skipInference --dumpRawBindingsToFile
    --staticPlugins --dynamicPlugins --setPluginsToSerialize --ignoreParsedPluginLibs
    """
)
_8_6 = _ALL | _WEAK | _8 | _FROM_8_6 | {"--fp8"}
_FROM_10 = _names(
    """
    --stripWeights --stripAllWeights --weightless --pluginInstanceNorm --pi --stronglyTyped
    --getPlanVersionOnly --noCompilationCache --errorOnTimingCacheMiss --maxTactics
    --runtimePlatform --profile --allowWeightStreaming --markDebug --useProfile
    --allocationStrategy --saveDebugTensors --weightStreamingBudget --dumpOptimizationProfile
    """
)
_WEAK_10 = _WEAK | {"--bf16", "--fp8", "--int4", "--calibProfile"}
_10_0 = (_ALL - {"--consistency"}) | _FROM_8_6 | _FROM_10 | _WEAK_10
_LATE_10 = _names(
    """
    --uint8AsymmetricQuantizationDLA --monitorMemory --decomposableAttentions --dumpKernelText
    --consistency --asyncFileReader --markUnfusedTensorsAsDebugTensors
    --tilingOptimizationLevel --l2LimitForTiling --remoteAutoTuningConfig --refitFromOnnx
    --safetyPlugins --saveAllDebugTensors
    """
)
_10_13 = _10_0 | _LATE_10
_FROM_11 = _names(
    """
    --reportCapabilityDLA --adjustForDLA --enablePluginOverride --cpuOnly --loadRefOutputs
    --includeDataTransfers --noSpinWait --noCudaGraph --accuracyAlgorithm --atol --rtol
    --accuracyThreshold --refPair --tuneBuildRoutes --tuneBuildRouteFile --tuningSearch
    --tuningCacheFile --tuningTimeOut --saveAllEngines --dryRun --continue --helpBuildRoute
    --setBuildRoute
    """
)
_11_0 = ((_10_13 | _FROM_11) - _WEAK_10) - {"--weightless"}

_11_5 = _11_0 | {"--independentWeightLayouts", "--saveEngineSo", "--loadEngineSo"}

# Each from its version on, oldest first.
_RECORD: tuple[tuple[Version, frozenset[str]], ...] = (
    ((8, 5, 0), _8_5),
    ((8, 6, 0), _8_6),
    ((10, 0, 0), _10_0),
    ((10, 13, 0), _10_13),
    ((11, 0, 0), _11_0),
    ((11, 5, 0), _11_5),
)
