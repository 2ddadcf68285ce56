"""The 256 special tokens of Llama 3.1, in the released order: the id of one is the base size plus its index here (paper 3.2).

The order is a table and not a list of options: a checkpoint trained with it must find the same 256 ids for ever. Slot 11 belongs
to the image token of the later vision release, which stands for a picture or a video. The three slots after it have no name
in any release; here they mark speech (paper 8.1): its start, its end, and the placeholder of 80 ms of it. The others are free.
"""

from __future__ import annotations

SLOTS = 256

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
PAD = "<|finetune_right_pad_id|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
EOM = "<|eom_id|>"
EOT = "<|eot_id|>"
PYTHON_TAG = "<|python_tag|>"
IMAGE = "<|image|>"

_NAMED = (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    PAD,
    "<|step_id|>",
    START_HEADER,
    END_HEADER,
    EOM,
    EOT,
    PYTHON_TAG,
    IMAGE,
)

SPECIAL_TOKENS: tuple[str, ...] = _NAMED + tuple(f"<|reserved_special_token_{2 + i}|>" for i in range(SLOTS - len(_NAMED)))
SPEECH_START, SPEECH_END, SPEECH = SPECIAL_TOKENS[12:15]
INDEX: dict[str, int] = {name: index for index, name in enumerate(SPECIAL_TOKENS)}
