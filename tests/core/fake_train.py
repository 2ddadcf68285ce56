"""A stage that works in steps, keeps its state in scratch, and goes on from there after a kill or a stop."""

import hashlib
import json
import time

from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution

KIND = "model"
REVISION = 1


class Settings(StageSettings):
    steps: int = 30
    pause: float = execution(0.01)


def run(settings, ctx):
    saved = ctx.scratch / "state.json"
    state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "value": str(ctx.stream_seed("start")), "rows": []}
    resumed_at = state["step"]

    def save():
        beside = saved.with_suffix(".new")
        beside.write_text(json.dumps(state))
        beside.replace(saved)

    for row in state["rows"]:
        ctx.metric(**row)
    while state["step"] < settings.steps:
        state["step"] += 1
        state["value"] = hashlib.sha256(state["value"].encode()).hexdigest()
        state["rows"].append({"step": state["step"], "loss": int(state["value"][:4], 16)})
        ctx.metric(**state["rows"][-1])
        ctx.progress(state["step"], settings.steps, loss=state["rows"][-1]["loss"])
        time.sleep(settings.pause)
        if state["step"] % 3 == 0:
            save()
        ctx.checkpoint_or_stop(save)
    (ctx.out / "weights.txt").write_text(state["value"])
    ctx.timing(resumed_at=resumed_at)
    return {"final": state["value"][:8]}
