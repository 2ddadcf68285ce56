"""How fast a machine really computes: published rates for H100 clusters, a measurement for the processor at hand."""

from __future__ import annotations

from dataclasses import dataclass

H100_PEAK_TFLOPS = 989.0  # dense BF16, data sheet
# Dense BF16 in TFLOP/s by a part of the device's name, the first that fits; data sheets.
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": H100_PEAK_TFLOPS, "H200": 989.0, "A100": 312.0}
# Share of one thread's matrix-product speed (384 x 384, FP32) that training reaches on the small models of the embedded recipe,
# Muon included: 0.23-0.63 measured at d 64 and d 96, 1,024 tokens a step, with a second process beside. A first estimate only.
CPU_TRAINING_SHARE = 0.4


@dataclass(frozen=True)
class Cluster:
    """A measured training configuration. `tflops` per GPU by the convention of `puna.plan.flops`."""

    gpus: int
    tp: int
    cp: int
    pp: int
    dp: int
    seq_len: int
    batch_tokens: int
    tflops: float
    source: str


TABLE_4 = (
    Cluster(8_192, 8, 1, 16, 64, 8_192, 16_777_216, 430, "paper, Table 4"),
    Cluster(16_384, 8, 1, 16, 128, 8_192, 16_777_216, 400, "paper, Table 4"),
    Cluster(16_384, 8, 16, 16, 8, 131_072, 16_777_216, 380, "paper, Table 4"),
)
# What public code reached with the smaller models: torchtitan, 8B on 128 H100 compiled (6,514 tokens/s/GPU, December 2024), 70B
# on 256 H100 with asynchronous tensor parallelism (652 tokens/s/GPU, June 2025), both BF16 at 8,192 tokens.
PUBLISHED = {
    "llama3.1-8b": Cluster(128, 1, 1, 1, 128, 8_192, 2_097_152, 377, "torchtitan, 128 H100"),
    "llama3.1-70b": Cluster(256, 8, 1, 1, 32, 8_192, 4_194_304, 314, "torchtitan, 256 H100"),
    "llama3.1-405b": TABLE_4[1],
}
MODEL_CARD_HOURS = {"llama3.1-8b": 1.46e6, "llama3.1-70b": 7.0e6, "llama3.1-405b": 30.84e6}  # H100 hours of the whole effort


def peak_tflops_of(device: str) -> float | None:
    """Peak of a device by its name in TFLOP/s, dense BF16; None where it is not known."""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in device), None)


def gpu_hours(flops: float, tflops: float) -> float:
    """GPU-hours for `flops` operations at `tflops` 10^12 operations a second per GPU."""
    return flops / (tflops * 1e12) / 3600


def cpu_gflops() -> float:
    """Training speed to expect of one core of this machine, in 10^9 operations a second: measured now, in under half a second."""
    from puna.core.hardware import matmul_gflops

    return CPU_TRAINING_SHARE * matmul_gflops(seconds=0.3)
