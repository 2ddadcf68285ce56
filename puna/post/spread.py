"""Where post-training trains: on which device, and over how many processes (docs/cluster.md).

The processes are those of `puna.train.ranks`, as in pre-training: each reads its share of every optimiser step, counts are summed
before the first micro-batch, and process 0 alone writes. Fine-tuning of whole models can also cut the model up (FSDP, tensor and
context parallel). Adapters, reward models, DPO, GRPO and `post.online` with `own` keep a copy in every process: adapters are
small, and what answers dev tasks or prompts on the way needs all of its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.infer.load import check_device
from puna.model.llama import Llama
from puna.train import ranks
from puna.train.parallel.layout import Layout
from puna.train.world import World

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes
    from puna.train.parallel.placed import Placed


class Share(TypedDict):
    """Which of how many parts of the rows, as batches take it."""

    rank: int
    world: int


class Settings(BaseSettings):
    """`device` that the model is trained on, and the processes of `parallel`: how the work is done, never what comes out."""

    device: str = execution("cpu")
    parallel: Layout = execution(Layout())

    def everywhere(self) -> dict[str, Any]:
        """These two as settings of another stage."""
        return {"device": self.device, "parallel": self.parallel.model_dump(mode="json")}


def on_ranks(
    body: ranks.Body, settings: Any, ctx: StageContext, *, rows: int | None = None, axes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`puna.train.ranks.on_ranks`, once the device is there and `check_layout` has let the layout pass."""
    check_device(settings.device, "device")
    check_layout(settings, ctx.name, rows=rows, axes=axes)
    return ranks.on_ranks(body, settings, ctx)


def check_layout(settings: Settings, name: str, *, rows: int | None = None, axes: tuple[str, ...] = ()) -> None:
    """InputError unless the stage of that name can be run in the layout of its settings.

    A stage that expands asks before any work for all of its sub-stages; devices are another matter, those of where it will run.

    Args:
        rows: what an optimiser step reads at least; None where a process may go without.
        axes: ways besides `dp` in which the stage's model can be laid out; none where each process keeps a copy.
    """
    layout = settings.parallel
    wanted = {"pp": layout.pp > 1, "tp": layout.tp > 1, "cp": layout.cp > 1, "recompute": layout.recompute != "none",
              "compile": layout.compile}  # fmt: skip
    for axis in (axis for axis, on in wanted.items() if on and axis not in axes):
        fix = f"leave it out; this stage takes {', '.join(('dp', *axes))}"
        raise InputError(f"stage '{name}' does not take '{axis}'", where=f"parallel.{axis}", fix=fix)
    if rows is not None and rows < layout.dp:
        raise InputError(f"{layout.dp} processes cannot share the {rows} rows of a step", where="parallel.dp",
                         fix="take fewer processes, or more rows per step")  # fmt: skip


def laid_out(model: Llama, meshes: Meshes | None, settings: Any) -> Llama | Placed:
    """A model cut up over the processes of `meshes`, its own weights let go; where there are none it is moved to the device."""
    from puna.train.parallel.placed import Placed

    if meshes is None:
        return model.to(settings.device)
    placed = Placed(model.config, meshes, weights=dict(model.named_parameters()), precision=settings.precision)
    model.to("meta")  # what its caller still holds takes no memory
    return placed


def gathered(model: Llama | Placed, device: str) -> Llama:
    """The whole model, trained, on the device of every process."""
    return (model if isinstance(model, Llama) else model.copy()).to(device)


def share() -> Share:
    """This process's share of every step's rows."""
    world = World.current()
    return {"rank": world.rank, "world": world.size}
