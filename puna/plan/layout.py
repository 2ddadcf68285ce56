"""The axes along which a model is laid out over processes (section 3.3.2), and which process of a pipeline holds which layers.

The shape of a layout alone, which is all that planning needs; `puna.train.parallel.layout` adds how it is run.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from puna.core.errors import InputError
from puna.core.settings import Settings
from puna.model.config import ModelConfig

ScheduleName = Literal[
    "gpipe", "1f1b", "looped_bfs", "interleaved_1f1b", "interleaved_zero_bubble", "zbv_zero_bubble", "dualpipe_v"
]
Recompute = Literal["none", "selective", "full"]
ONE_STAGE = ("gpipe", "1f1b")  # a rank holds one stage; in the others `virtual_stages` of them
V_SHAPED = ("zbv_zero_bubble", "dualpipe_v")  # rank r holds stages r and 2 pp - 1 - r


class Axes(Settings):
    """Ranks along each axis; their product is the number of processes.

    Attributes:
        dp: groups that read different rows. replicate: copies of the sharded weights among them (HSDP), 1 for plain FSDP.
        cp: ranks that share the sequence of a row. tp: ranks that share each matrix, and the sequence between them.
        pp: ranks that share the layers.
        schedule: order of the pipeline's forward and backward passes, `virtual_stages` stages on each rank of it.
        lean_ends: one layer less on the first and on the last stage, which also hold embedding and output (the paper's 405B).
        recompute: activations computed again in the backward pass: none of them, all but the matrix products' ("selective"), all.
    """

    dp: PositiveInt = 1
    replicate: PositiveInt = 1
    cp: PositiveInt = 1
    tp: PositiveInt = 1
    pp: PositiveInt = 1
    schedule: ScheduleName = "1f1b"
    virtual_stages: PositiveInt = 1
    lean_ends: bool = False
    recompute: Recompute = "none"

    @model_validator(mode="after")
    def _check_axes(self) -> Axes:
        if self.dp % self.replicate:
            raise ValueError(f"dp {self.dp} is no multiple of replicate {self.replicate}")
        if self.pp == 1 and self.virtual_stages > 1:
            raise ValueError("virtual_stages divides the layers of a pipeline, and pp is 1")
        if self.schedule in ONE_STAGE and self.virtual_stages > 1:
            raise ValueError(f"the schedule {self.schedule} has one stage on each rank; take interleaved_1f1b")
        if self.pp > 1 and self.schedule in V_SHAPED and self.virtual_stages != 2:
            raise ValueError(f"the schedule {self.schedule} has two stages on each rank: virtual_stages is 2")
        return self

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.dp * self.cp * self.tp * self.pp

    @property
    def shards(self) -> int:
        """Ranks over which weights, gradients and optimiser state are spread, beyond tp and pp."""
        return self.dp * self.cp // self.replicate

    @property
    def stages(self) -> int:
        """Stages of the pipeline, over all ranks."""
        return self.pp * self.virtual_stages

    def stages_of(self, rank: int) -> list[int]:
        """Stages that a rank of the pipeline holds, in order."""
        if self.schedule in V_SHAPED and self.pp > 1:
            return [rank, self.stages - 1 - rank]
        return list(range(rank, self.stages, self.pp))

    def rank_of(self, stage: int) -> int:
        """Rank of the pipeline that holds a stage."""
        turn, place = divmod(stage, self.pp)
        return self.pp - 1 - place if self.schedule in V_SHAPED and turn % 2 else place

    def layers_of(self, stage: int, layers: int) -> range:
        """Layers of one stage: as equal as they divide, the middle ones the longer; see `lean_ends`."""
        ends = 1 if self.lean_ends and self.stages > 1 else 0
        share, more = divmod(layers + 2 * ends, self.stages)
        counts = [share] * self.stages
        counts[0] -= ends
        counts[-1] -= ends
        middle = sorted(range(self.stages), key=lambda place: (abs(2 * place - self.stages + 1), place))
        for place in middle[:more]:
            counts[place] += 1
        return range(sum(counts[:stage]), sum(counts[: stage + 1]))

    def check_model(self, config: ModelConfig) -> None:
        """InputError when a model does not divide by this layout."""
        sizes = {"heads": config.heads, "kv_heads": config.kv_heads, "ffn_dim": config.ffn_dim}
        wrong = [f"{name} {size}" for name, size in sizes.items() if size % self.tp]
        if wrong:
            raise InputError(f"tp {self.tp} does not divide {', '.join(wrong)}", where="parallel.tp", fix="lower tp")
        if self.pp > 1 and config.tied:
            raise InputError("a pipeline keeps embedding and output apart, and this model ties them", where="parallel.pp",
                             fix="use pp 1, or a model with `tied: false`")  # fmt: skip
        least = 0 if self.lean_ends and self.stages > 2 else 1  # an end may hold its embedding or its output alone
        counts = [len(self.layers_of(stage, config.layers)) for stage in range(self.stages)]
        if min(counts[0], counts[-1]) < least or min(counts[1:-1], default=1) < 1:
            raise InputError(f"{config.layers} layers are too few for {self.stages} stages", where="parallel.pp",
                             fix="lower pp, virtual_stages, or set lean_ends to false")  # fmt: skip

    def check_rows(self, seq_len: int) -> None:
        """InputError when rows do not divide into the parts that ranks hold."""
        parts = self.tp * (2 * self.cp if self.cp > 1 else 1)
        if seq_len % parts:
            raise InputError(f"rows of {seq_len} tokens do not divide into {parts} parts", where="parallel",
                             fix=f"make seq_len a multiple of {parts}, or lower cp or tp")  # fmt: skip
