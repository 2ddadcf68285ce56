"""The plan of a recipe: for every stage that trains, which model, how many tokens, how many operations, how long on this machine.

Read from the settings alone (`model`, `steps`, `batch_tokens`, `seq_len`), so that a stage added later is planned without a word
here. What a stage continues is the nearest model stage among its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from puna.core.graph import Graph, Node, build_graph
from puna.core.hardware import usable_cores
from puna.core.recipe import Recipe
from puna.model.config import ModelConfig, ffn_width, preset
from puna.plan import flops, memory, speed
from puna.plan.cluster import layout_values, parts_text
from puna.plan.layout import Axes
from puna.plan.layout_memory import Work
from puna.plan.report import Plan, Section, count, duration, size

DEFAULT_VOCAB = 1280  # of the embedded recipe, where no stage trains a tokenizer
DEFAULT_ROW = 128  # tokens, for stages that choose their own row length


@dataclass(frozen=True)
class Training:
    """What one stage trains. `parts` are (tokens, row length) of its phases."""

    config: ModelConfig
    parts: tuple[tuple[float, int], ...]
    steps: float
    batch_tokens: int
    muon: bool

    @property
    def tokens(self) -> float:
        """Tokens seen."""
        return sum(tokens for tokens, _ in self.parts)

    @property
    def flops(self) -> float:
        """Operations, the optimiser's own included."""
        step = self.steps * flops.newton_schulz_flops(self.config) if self.muon else 0
        return step + sum(tokens * flops.training_flops_per_token(self.config, row) for tokens, row in self.parts)


def plan_recipe(recipe: Recipe) -> Plan:
    """Plan a loaded recipe; its settings are checked on the way (InputError)."""
    graph = build_graph(recipe)
    rate, cores = speed.cpu_gflops(), usable_cores()
    stages: dict[str, dict[str, Any]] = {}
    models: dict[str, ModelConfig] = {}
    for name, node in graph.items():
        training = _training(node, graph)
        stages[name] = _stage_values(node, training, rate, recipe)
        if training is not None:
            models[name] = training.config
    known = {name: stage["seconds"] for name, stage in stages.items() if stage["seconds"] is not None}
    chain = _longest_chain(graph, known)
    total = max(sum(known.values()) / cores, chain)
    values = {"recipe": recipe.name, "stages": stages, "gflops_per_core": rate, "cores": cores, "seconds": total}
    sections = [_model_section(models), _stage_section(stages), _total_section(stages, known, chain, total, cores, rate)]
    return Plan(f"{recipe.name}: {len(graph)} stages", [section for section in sections if section.rows], values)


def _training(node: Node, graph: Graph) -> Training | None:
    """What a stage trains, or None for a stage that does not."""
    settings = node.settings
    steps, batch = getattr(settings, "steps", None), getattr(settings, "batch_tokens", None)
    if steps is None or batch is None:
        return None
    config = _config(node, graph)
    if config is None:
        return None
    name = getattr(getattr(settings, "optim", None), "name", "adamw")
    if hasattr(settings, "token_parts"):
        found = settings.token_parts()
        parts = tuple((float(tokens), int(length)) for tokens, length, _ in found)
        return Training(config, parts, float(steps), max(int(step) for _, _, step in found), name == "muon")
    lengths = getattr(settings, "stages", None) or (_row(settings, config),)
    each = steps if isinstance(steps, tuple) else (steps,) * len(lengths)
    parts = tuple((float(s * batch), int(length)) for s, length in zip(each, lengths, strict=True))
    return Training(config, parts, float(sum(each)), int(batch), name == "muon")


def _row(settings: Any, config: ModelConfig) -> int:
    for name in ("seq_len", "length"):
        if isinstance(getattr(settings, name, None), int):
            return getattr(settings, name)
    return min(DEFAULT_ROW, config.max_seq_len)


def _config(node: Node, graph: Graph) -> ModelConfig | None:
    """The shape a stage trains: its own `model`, or that of the nearest stage above it that has one."""
    shape = getattr(node.settings, "model", None)
    if isinstance(shape, str):
        return preset(shape).with_vocab(_vocab(node, graph))
    if shape is not None:
        values = shape.model_dump()
        values["ffn_dim"] = values.get("ffn_dim") or ffn_width(values["dim"])
        values["max_seq_len"] = values.get("max_seq_len") or getattr(node.settings, "seq_len", None) or DEFAULT_ROW
        return ModelConfig(vocab_size=_vocab(node, graph), **values)
    for source in node.sources:
        found = _config(graph[source], graph) if graph[source].kind == "model" else None
        if found is not None:
            return found
    return None


def _vocab(node: Node, graph: Graph) -> int:
    """Vocabulary of the tokenizer above a stage."""
    frontier, seen = list(node.sources), set(node.sources)
    while frontier:
        above = graph[frontier.pop(0)]
        if isinstance(getattr(above.settings, "vocab", None), int):
            return above.settings.vocab  # type: ignore[attr-defined]
        new = [source for source in above.sources if source not in seen]
        frontier += new
        seen |= set(new)
    return DEFAULT_VOCAB


def _stage_values(node: Node, training: Training | None, rate: float, recipe: Recipe) -> dict[str, Any]:
    budget = recipe.budget.seconds.get(node.name)
    values: dict[str, Any] = {"uses": node.uses, "kind": node.kind, "seconds": budget, "basis": "budget" if budget else None}
    if training is not None:
        seconds = training.flops / rate / 1e9
        need = memory.training_memory(training.config, training.batch_tokens)
        values |= {
            "parameters": training.config.parameters(),
            "tokens": training.tokens,
            "steps": training.steps,
            "flops": training.flops,
            "training_bytes": need.total,
            "estimated_seconds": seconds,
        }
        layout = _layout(node.settings, training)
        values |= {} if layout is None else {"layout": layout}
        if budget is None:
            values |= {"seconds": seconds, "basis": "operations"}
    return values


def _layout(settings: Any, training: Training) -> dict[str, Any] | None:
    """Memory of a process and the bubble, for the longest rows of a stage that is laid out over several processes."""
    axes = getattr(settings, "parallel", None)
    if not isinstance(axes, Axes) or axes.world == 1:
        return None
    length = max(row for _, row in training.parts)
    rows = max(1, training.batch_tokens // (length * axes.dp))
    together = min(rows, getattr(settings, "micro_rows", None) or rows)
    element = 4 if getattr(settings, "precision", "fp32") in ("fp32", "auto") else 2  # auto may be either: the larger
    dense = getattr(getattr(settings, "watch", None), "device", "cpu") == "cpu"
    work = Work(length, -(-rows // together), together, element, getattr(settings, "loss_chunk", None), dense_mask=dense)
    return layout_values(training.config, axes, work)


def _longest_chain(graph: Graph, seconds: dict[str, float]) -> float:
    """Seconds of the longest path: what any number of cores would still take."""
    ends: dict[str, float] = {}
    for name, node in graph.items():
        ends[name] = seconds.get(name, 0.0) + max((ends[source] for source in node.sources), default=0.0)
    return max(ends.values(), default=0.0)


def _model_section(models: dict[str, ModelConfig]) -> Section:
    section = Section("models")
    shown: list[ModelConfig] = []
    for name, config in models.items():
        if config not in shown:
            shown.append(config)
            shape = f"{config.layers} layers, width {config.dim}, {config.heads}/{config.kv_heads} heads, {config.vocab_size} ids"
            section.add(name, f"{config.parameters():,} parameters", shape)
    return section


def _stage_section(stages: dict[str, dict[str, Any]]) -> Section:
    section = Section("stages")
    for name, stage in stages.items():
        what = stage["uses"]
        if "tokens" in stage:
            what += f": {count(stage['tokens'])} tokens, {stage['flops']:.2e} FLOPs, {size(stage['training_bytes'])}"
        if "layout" in stage:
            layout = stage["layout"]
            what += f"; {layout['processes']} processes of {size(layout['bytes'])}: {parts_text(layout)}"
        section.add(name, duration(stage["seconds"]) if stage["seconds"] is not None else "-", what)
    return section


def _total_section(
    stages: dict[str, dict[str, Any]], known: dict[str, float], chain: float, total: float, cores: int, rate: float
) -> Section:
    section = Section("total (first estimate)")
    operations = sum(stage.get("flops", 0.0) for stage in stages.values())
    section.add("training operations", f"{operations:.2e}", f"at {rate:.0f} GFLOP/s a core, measured now")
    section.add("core time", duration(sum(known.values())), f"{len(known)} of {len(stages)} stages have an estimate")
    section.add("longest chain", duration(chain))
    section.add(f"wall time on {cores} cores", duration(total), "at least; stages shown as - come on top")
    return section
