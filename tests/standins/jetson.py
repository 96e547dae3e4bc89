"""Stand-ins for the tools of a Jetson: nvpmodel, jetson_clocks, tegrastats.

They print what real ones were seen to print, as public code and issues hold it; each text's source
stands beside it. Only figures are taken from there.
"""

from __future__ import annotations

import shlex
from pathlib import Path

# open-rdc/orne-box issue 16: JetPack 4, AGX Xavier.
NVPMODEL_MAXN = "NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n"
# NVIDIA's format, as in anduril/jetpack-nixos pull request 460, with a mode of AGX Xavier's list
# (rbonghi/jetson_stats, tests/nvpmodel).
NVPMODEL_30W = "NV Power Mode: MODE_30W_ALL\n3\n"
# rbonghi/jetson_stats, tests/jetson_clocks (TX2).
JETSON_CLOCKS = """SOC family:tegra186  Machine:quill
Online CPUs: 0,3-5
CPU Cluster Switching: Disabled
cpu0: Online=1 Governor=schedutil MinFreq=345600 MaxFreq=2035200 CurrentFreq=2035200 IdleStates: C1=1 c7=1
GPU MinFreq=114750000 MaxFreq=1134750000 CurrentFreq=114750000
EMC MinFreq=40800000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=0
Fan: speed=0
NV Power Mode: MAXP_CORE_ARM
"""  # noqa: E501
JETSON_CLOCKS_NO_ROOT = "Please run as root\n"

# martinkersner/gtop pull request 7: AGX Xavier, JetPack 4.2.
XAVIER_4_2 = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190,0%@1190,0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C "
    "Tboard@31C Tdiode@32C AUX@30.5C CPU@31.5C thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 "
    "SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306"
)
# A test of a public Rust program (find: "GPU 467mW/467mW CPU 467mW/467mW"): AGX Xavier, JetPack 5.
XAVIER_5 = (
    "RAM 1000/31920MB (lfb 1x4MB) CPU [0%@1190,1%@1190,0%@1190,0%@1189,0%@1190,0%@1191,0%@1190,"
    "0%@1190] EMC_FREQ 0%@1331 GR3D_FREQ 0%@114 VIC_FREQ 115 APE 150 AUX@36C CPU@36.5C "
    "thermal@35.7C Tboard@37C AO@35C GPU@35C Tdiode@38.75C PMIC@50C GPU 467mW/467mW CPU "
    "467mW/467mW SOC 1245mW/1245mW CV 0mW/0mW VDDRQ 311mW/311mW SYS5V 2768mW/2768mW"
)
# A README with an AGX Xavier under load (find: "GPU 18401/18525").
XAVIER_BUSY = (
    "RAM 10881/31919MB (lfb 4230x4MB) SWAP 0/15959MB (cached 0MB) CPU [17%@1190,17%@1190,18%@1190,"
    "25%@1190,17%@1336,15%@1340,23%@1543,15%@1574] EMC_FREQ 55%@2133 GR3D_FREQ 95%@1377 APE 150 "
    "MTS fg 0% bg 10% AO@48C GPU@54.5C Tdiode@53.25C PMIC@100C AUX@46C CPU@49C thermal@49.45C "
    "Tboard@47C GPU 18401/18525 CPU 2301/2330 SOC 4602/4602 CV 0/0 VDDRQ 2914/2911 SYS5V 4632/4620"
)
# "Real tegrastats lines of the three Jetsons" of a public test: AGX Orin and Orin Nano, JetPack 7.
ORIN_7 = (
    "10-01-2026 11:05:58 RAM 8207/62878MB (lfb 80x4MB) SWAP 85/6144MB (cached 0MB) CPU [9%@729,"
    "8%@729,9%@729,7%@729,3%@1190,19%@1190,3%@1190,57%@1190,6%@729,5%@729,1%@729,1%@729] "
    "GR3D_FREQ 0% cpu@47.906C/48.343C soc2@45.375C/45.406C soc0@45.5C/45.593C tj@47.906C/48.343C "
    "soc1@47.093C/47.25C VDD_GPU_SOC 3034mW/3049mW/3412mW VDD_CPU_CV 1137mW/1296mW/2273mW "
    "VIN_SYS_5V0 4939mW/4924mW/5040mW"
)
ORIN_NANO_7 = (
    "10-01-2026 20:36:32 RAM 974/7546MB (lfb 6x4MB) SWAP 0/5821MB (cached 0MB) CPU [0%@729,0%@729,"
    "0%@883,0%@883,0%@729,0%@729] GR3D_FREQ 12% cpu@49.843C/49.843C soc2@49.156C/49.156C "
    "soc0@50.187C/50.187C gpu@50.875C/50.875C tj@50.875C/50.875C soc1@50.218C/50.218C "
    "VDD_IN 4548mW/4548mW/4548mW VDD_CPU_GPU_CV 483mW/483mW/483mW VDD_SOC 1489mW/1489mW/1489mW"
)
# A public test's line of an AGX Orin (find: "VDD_GPU_SOC 3342mW/3342mW"): JetPack 6.
ORIN_6 = (
    "07-29-2026 12:21:57 RAM 2189/62827MB (lfb 2x4MB) SWAP 0/31413MB (cached 0MB) CPU [1%@729,"
    "0%@729,1%@729,1%@729,1%@2201,0%@2201,100%@2201,0%@2201,0%@1420,0%@1420,1%@1420,1%@1420] "
    "GR3D_FREQ 0% cpu@51.031C soc2@47.687C soc0@47.406C gpu@47.125C tj@51.031C soc1@46.312C "
    "VDD_GPU_SOC 3342mW/3342mW VDD_CPU_CV 1909mW/1909mW VIN_SYS_5V0 3717mW/3717mW"
)
# gustavz/realtime_object_detection issue 24: TX2.
TX2 = (
    "RAM 1685/7854MB (lfb 1044x4MB) SWAP 278/8192MB (cached 23MB) CPU [0%@1303,0%@345,0%@345,"
    "0%@1419,0%@1420,0%@1421] EMC_FREQ 0%@1866 GR3D_FREQ 0%@140 APE 150 MTS fg 1% bg 8% BCPU@41C "
    "MCPU@41C GPU@39C PLL@41C Tboard@37C Tdiode@37.25C PMIC@100C thermal@39.9C VDD_IN 1931/1931 "
    "VDD_CPU 231/231 VDD_GPU 154/154 VDD_SOC 385/385 VDD_WIFI 38/38 VDD_DDR 326/326"
)
# rbonghi/jetson_stats, tests/tegrastats: Nano.
NANO = (
    "RAM 1180/3965MB (lfb 1x2MB) SWAP 149/1024MB (cached 7MB) IRAM 0/252kB(lfb 252kB) CPU "
    "[30%@1036,33%@1036,28%@1036,26%@1036] EMC_FREQ 10%@1600 GR3D_FREQ 0%@76 NVENC 716 NVDEC 716 "
    "APE 25 PLL@57C CPU@60.5C PMIC@100C GPU@59C AO@65C thermal@59.75C POM_5V_IN 4520/4680 "
    "POM_5V_GPU 0/0 POM_5V_CPU 1078/1205"
)
# rbonghi/jetson_stats issue 187: a TX2 NX that tells no power.
NO_POWER = (
    "RAM 1689/3825MB (lfb 339x4MB) SWAP 0/1913MB (cached 0MB) CPU [3%@345,off,off,0%@345,1%@345,"
    "1%@345] EMC_FREQ 0% GR3D_FREQ 0% PLL@50.5C MCPU@50.5C PMIC@50C GPU@50C BCPU@50.5C "
    "thermal@50.3C"
)


def install(
    folder: Path,
    *,
    mode: str | None = NVPMODEL_MAXN,
    clocks: str | None = JETSON_CLOCKS_NO_ROOT,
    stats: tuple[str, ...] | None = (XAVIER_4_2,),
    record: Path | None = None,
) -> None:
    """Write the tools that are not None into ``folder``.

    Args:
        folder: for them.
        mode: what ``nvpmodel -q`` prints.
        clocks: what ``jetson_clocks --show`` prints.
        stats: the lines that tegrastats prints, over and over.
        record: a file to which tegrastats adds its process id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scripts = {"nvpmodel": mode, "jetson_clocks": clocks}
    for name, text in scripts.items():
        if text is not None:
            _write(folder / name, f"printf %s {shlex.quote(text)}\n")
    if stats is not None:
        lines = " ".join(shlex.quote(line) for line in stats)
        noted = f"echo $$ >>{shlex.quote(str(record))}\n" if record else ""
        _write(
            folder / "tegrastats",
            f'{noted}[ "$1" = --interval ] || exit 1\n'
            f'while :; do for line in {lines}; do echo "$line"; sleep 0.05; done; done\n',
        )


def _write(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
