"""The plan: parameters, operations, memory and a first estimate of time, before anything runs (sections 3.2.1 and 3.3).

For a released model the time is that of an H100 cluster at a published rate; for a recipe it is that of this machine, from a
measurement made now. Stages that do not train say "-", unless the recipe's budget holds a measured time for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.core.modules import did_you_mean
from puna.model.config import PRESETS, ModelConfig
from puna.plan import flops, memory, speed

PAPER_TOKENS = 15.6e12  # the 405B's training tokens (section 3.2.1); the model card says "15T+" for all three sizes
SMALL = 10_000_000  # parameters below which a preset is planned for this machine instead of a cluster


@dataclass
class Section:
    """A titled table: rows of name, value, remark."""

    title: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, name: str, value: str, remark: str = "") -> None:
        """Append a row."""
        self.rows.append((name, value, remark))


@dataclass
class Plan:
    """What `puna plan` shows: tables for people, `values` for programs."""

    title: str
    sections: list[Section]
    values: dict[str, Any]

    def text(self) -> str:
        """The tables, one under the other."""
        return "\n\n".join([self.title, *(_table(section) for section in self.sections)])

    def json(self) -> dict[str, Any]:
        """The same numbers, unrounded."""
        return self.values


def plan(target: str, overrides: Sequence[str] = ()) -> Plan:
    """Plan a model preset or a recipe.

    Args:
        target: a preset (`llama3.1-405b` or `405b`, `cria-flagship`) or a recipe as `puna up` takes it.
        overrides: `key=value`; for a preset tokens, seq_len, gpus, tflops; for a recipe any of its values.

    Raises InputError for an unknown name or key.
    """
    for name in (target.lower(), f"llama3.1-{target.lower()}"):
        if name in PRESETS:
            return plan_model(name, overrides)
    from puna.core.recipe import bundled, load_recipe

    if target in bundled() or Path(target).exists() or target.endswith((".yaml", ".yml")) or ".py:" in target:
        from puna.plan.recipe import plan_recipe

        return plan_recipe(load_recipe(target, overrides))
    raise InputError(f"'{target}' is neither a recipe nor a model preset", fix=did_you_mean(target, [*bundled(), *PRESETS]))


def plan_model(name: str, overrides: Sequence[str] = ()) -> Plan:
    """Plan one preset: size, training, inference."""
    config = PRESETS[name]
    small = config.parameters() < SMALL
    choices = _choices(name, small, overrides)
    training = _small_training(config, choices) if small else _cluster_training(name, choices)
    values = {"model": name, **asdict(config), "parameters": config.parameters(), "choices": choices}
    sections = [_size(config)]
    for section, more in (training, *(() if small else _cluster(name, choices["gpus"])), _inference(config)):
        sections.append(section)
        values |= more
    return Plan(f"{name}: {config.parameters():,} parameters", sections, values)


def _choices(name: str, small: bool, overrides: Sequence[str]) -> dict[str, float]:
    """What the plan may vary, with the published values as default."""
    from puna.core.source import parse_value

    known: dict[str, float] = {"tokens": 2e6, "seq_len": PRESETS[name].max_seq_len, "batch_tokens": 1024}
    if not small:
        cluster = speed.PUBLISHED[name]
        known = {"tokens": PAPER_TOKENS, "seq_len": cluster.seq_len, "gpus": cluster.gpus, "tflops": cluster.tflops}
    for text in overrides:
        key, _, value = text.partition("=")
        if key not in known:
            raise InputError(f"a plan of {name} has no '{key}'", where=text, fix=did_you_mean(key, known))
        parsed = parse_value(value)
        if isinstance(parsed, bool) or not isinstance(parsed, int | float) or parsed <= 0:
            raise InputError(f"{key} must be a positive number", where=text, fix="for instance tokens=2e6")
        known[key] = parsed
    return known


def _size(config: ModelConfig) -> Section:
    section = Section("size")
    section.add(
        "layers x width", f"{config.layers} x {config.dim}", f"{config.heads}/{config.kv_heads} heads, FFN {config.ffn_dim}"
    )
    section.add("parameters", f"{config.parameters():,}", "tied output" if config.tied else "untied output")
    section.add(
        "of which embedding + output", f"{config.parameters() - config.layers * config.layer_parameters() - config.dim:,}"
    )
    section.add("context", f"{config.max_seq_len:,} tokens", "RoPE scaled" if config.rope_scaling else "")
    return section


def _operations(section: Section, config: ModelConfig, tokens: float, seq_len: int) -> dict[str, float]:
    per_token = flops.training_flops_per_token(config, seq_len)
    budget = flops.training_flops(config, tokens)
    section.add("tokens", count(tokens))
    section.add("FLOPs, 6 N D", f"{budget:.2e}", "the paper's budget; attention left out")
    section.add(f"FLOPs per token at {seq_len:,}", f"{per_token:.3g}", "6 (N - embedding) + 12 L d S, attention in full")
    section.add("FLOPs with attention", f"{per_token * tokens:.2e}")
    return {"flops_6nd": budget, "flops_per_token": per_token, "flops": per_token * tokens}


def _cluster_training(name: str, choices: dict[str, float]) -> tuple[Section, dict[str, Any]]:
    config, section = PRESETS[name], Section("training on H100, BF16")
    values: dict[str, Any] = dict(_operations(section, config, choices["tokens"], int(choices["seq_len"])))
    hours = speed.gpu_hours(values["flops"], choices["tflops"])
    days = hours / choices["gpus"] / 24
    need = memory.training_memory(config, int(choices["seq_len"]), memory.MIXED)
    share, published = choices["tflops"] / speed.H100_PEAK_TFLOPS, speed.PUBLISHED[name]
    origin = published.source if choices["tflops"] == published.tflops else "as given"
    section.add("rate", f"{choices['tflops']:.0f} TFLOP/s/GPU", f"{share:.0%} of peak; {origin}")
    section.add(
        "H100 hours", count(hours), f"useful work only; the released model took {count(speed.MODEL_CARD_HOURS[name])} in all"
    )
    section.add(f"days on {choices['gpus']:,.0f} GPUs", f"{days:.1f}")
    section.add("training state", size(need.state), memory.MIXED.name)
    section.add("fits from", f"{-(-need.state // (80 * 10**9)):,} GPUs of 80 GB", "state alone, spread evenly")
    section.add("activations of one sequence", size(need.activations), "nothing recomputed, logits included")
    memory_values = {**asdict(need), "state": need.state}
    return section, {**values, "h100_hours": hours, "days": days, "training_bytes": memory_values}


def _cluster(name: str, gpus: float) -> list[tuple[Section, dict[str, Any]]]:
    from puna.plan.cluster import failure_section, layout_section

    section, layouts = layout_section(name, PRESETS[name])
    interruptions, values = failure_section(PRESETS[name], gpus)
    return [(section, {"layouts": layouts}), (interruptions, {"interruptions": values})]


def _small_training(config: ModelConfig, choices: dict[str, float]) -> tuple[Section, dict[str, Any]]:
    section = Section("training on one core of this machine, FP32")
    values: dict[str, Any] = dict(_operations(section, config, choices["tokens"], int(choices["seq_len"])))
    rate = speed.cpu_gflops()
    steps = choices["tokens"] / choices["batch_tokens"]
    total = values["flops"] + steps * flops.newton_schulz_flops(config)
    need = memory.training_memory(config, int(choices["batch_tokens"]))
    section.add("rate", f"{rate:.0f} GFLOP/s", f"{speed.CPU_TRAINING_SHARE:.0%} of a matrix product measured now")
    section.add(
        "time", duration(total / rate / 1e9), f"{steps:,.0f} steps of {choices['batch_tokens']:,.0f} tokens, Muon included"
    )
    section.add("memory", size(need.total), f"{memory.FP32.name}; activations of one step")
    memory_values = {**asdict(need), "state": need.state}
    return section, {**values, "seconds": total / rate / 1e9, "gflops": rate, "training_bytes": memory_values}


def _inference(config: ModelConfig) -> tuple[Section, dict[str, Any]]:
    section = Section("inference")
    plain, fp8, kv = memory.weight_bytes(config), memory.weight_bytes(config, fp8=True), config.kv_bytes_per_token()
    section.add("weights, BF16", size(plain))
    section.add("weights, FP8", size(fp8), "feed-forward matrices but those of the first and last layer (6.2)")
    section.add("KV cache per token, BF16", f"{kv:,} bytes")
    section.add("KV cache of a full context", size(kv * config.max_seq_len), f"{config.max_seq_len:,} tokens")
    section.add("FLOPs per new token", f"{flops.forward_flops_per_token(config, 0):.3g}", "at an empty context")
    return section, {"weight_bytes": plain, "weight_bytes_fp8": fp8, "kv_bytes_per_token": kv}


def _table(section: Section) -> str:
    name = max(len(row[0]) for row in section.rows)
    value = max(len(row[1]) for row in section.rows)
    lines = [f"  {row[0].ljust(name)}  {row[1].rjust(value)}  {row[2]}".rstrip() for row in section.rows]
    return "\n".join([section.title, *lines])


def count(number: float) -> str:
    """A large number as people read it: 15.6T, 26.4M, 870."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def size(count_of_bytes: float) -> str:
    """Bytes as people read them."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count_of_bytes >= limit:
            return f"{count_of_bytes / limit:.3g} {unit}"
    return f"{count_of_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    for limit, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.3g} {unit}"
    return f"{seconds:.0f} s"
