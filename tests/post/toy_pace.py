"""Loaded into the server of stages: states are saved every 50 ms and answers kept in small parts, so that a kill meets some."""

from functools import wraps

from puna.post import gated, reject, reward, sft
from puna.train.loop import train


@wraps(train)
def saving_often(*args, **kwargs):
    return train(*args, **{**kwargs, "checkpoint_seconds": 0.05})


for stage in (sft, gated, reward):
    stage.train = saving_often
reject.PROMPTS_PER_PART = 5
