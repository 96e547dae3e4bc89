"""What the probe's script brings back from machines that are not at hand, key by key.

The texts are in the formats those tools print; none was copied from a machine.
"""

from __future__ import annotations

DF = """Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/mmcblk0p1    28768380 16011232  {free}      60% /
"""
BANNER = (
    "&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # /usr/src/tensorrt/bin/trtexec --help\n"
)

XAVIER = {
    "system": "Linux",
    "machine": "aarch64",
    "os-release": 'ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 20.04.6 LTS"\n',
    "user": "nvidia",
    "groups": "nvidia sudo video",
    "cores": "8",
    "load": "0.52 0.58 0.59 1/543 12345\n",
    "uptime": "350735.47 234388.90\n",
    "memory": "MemTotal:       32692744 kB\nMemFree: 100 kB\nMemAvailable:   29000000 kB\n",
    "board": "Jetson-AGX\n",
    "compatible": "nvidia,galen\nnvidia,jetson-xavier\nnvidia,p2822-0000\nnvidia,tegra194\n",
    "l4t": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "power-mode": "NV Power Mode: MAXN\n0\n",
    "clocks": "SOC family:tegra194  Machine:Jetson-AGX\nOnline CPUs: 0-7\n"
    "GPU MinFreq=1377000000 MaxFreq=1377000000 CurrentFreq=1377000000\n",
    "gpu-node": "/dev/nvhost-gpu",
    "gpu-node-open": "yes",
    "cuda": '{\n "cuda" : {\n  "name" : "CUDA SDK",\n  "version" : "11.4.19"\n }\n}\n',
    "trtexec": "/usr/src/tensorrt/bin/trtexec",
    "help": BANNER.format(number="8502") + "=== Model Options ===\n  --onnx=<file>  ONNX model\n",
    "packages": "ii  libnvinfer-bin 8.5.2-1+cuda11.4\nii  libnvinfer8 8.5.2-1+cuda11.4\n"
    "un  tensorrt-dev \nii  nvidia-jetpack 5.1.2-b104\n",
    "folder": "/home/nvidia/.cache",
    "folder-writable": "yes",
    "folder-disk": DF.format(free=11272460),
    "tmp-disk": DF.format(free=11272460),
    "sha256": "sha256sum",
    "python": "Python 3.8.10\n",
    "timeout": "yes",
}

T4 = {
    **{key: XAVIER[key] for key in ("system", "load", "folder-disk", "tmp-disk", "sha256")},
    "machine": "x86_64",
    "os-release": 'PRETTY_NAME="Ubuntu 22.04.4 LTS"\nID=ubuntu\n',
    "user": "me",
    "groups": "me",
    "cores": "8",
    "gpus": "Tesla T4, 7.5, 15360, 535.161.08\n",
    "jobs": "",
    "gpu-node": "/dev/nvidia0",
    "gpu-node-open": "yes",
    "nvcc": "nvcc: NVIDIA (R) Cuda compiler driver\n"
    "Cuda compilation tools, release 12.4, V12.4.131\nBuild cuda_12.4.r12.4/compiler.1\n",
    "trtexec": "/opt/tensorrt/bin/trtexec",
    "help": BANNER.format(number="100300"),
    "folder": "/home/me/.cache",
    "folder-writable": "yes",
}
