"""Terms of licences that plain rules over SPDX names cannot tell: model licences and terms of service, as a table.

Each entry says what follows from having the material itself in what one passes on (weights, or data), and what follows when only
its OUTPUTS improved a model (synthetic answers, preference labels, rewards, judge scores, logits). The two differ most among the
Llama licences: up to 3.0 outputs may improve no other model, from 3.1 on they may and the model's name must begin with "Llama".
A table of model names concludes the licence of a teacher that a row only names. Facts about texts, no legal advice; no licence
text is held here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ATTRIBUTION, SHARE_ALIKE, NON_COMMERCIAL = "attribution", "share-alike", "non-commercial"
NO_DERIVATIVES, LLAMA_NAME, UNKNOWN = "no-derivatives", "llama-name", "unknown-licence"
NO_COMPETING, NO_TRAINING = "no-competing-model", "no-training"
USE_POLICY, NOT_IN_EU = "use-policy", "multimodal-not-granted-in-eu"
NOTHING = "none-needed"  # licence of what carries no terms: a person's judgement, a model without duties

DUTIES = {
    ATTRIBUTION: "name the source and keep its notices",
    SHARE_ALIKE: "pass adapted data on under the same licence",
    NON_COMMERCIAL: "no commercial use",
    NO_DERIVATIVES: "pass no adapted version on",
    LLAMA_NAME: 'the name of the model begins with "Llama", and "Built with Llama" and the notice line are shown',
    UNKNOWN: "the licence is not known, so nothing is granted",
    NO_COMPETING: "the terms forbid to develop models that compete with the provider's",
    NO_TRAINING: "outputs may not improve any other language model",
    USE_POLICY: "pass the licence's rules of use on",
    NOT_IN_EU: "multimodal weights are not granted to persons and companies in the European Union",
}


@dataclass(frozen=True)
class Terms:
    """What one licence asks for.

    Attributes:
        id: as it stands in lineage and SPDX files.
        name: as people know it.
        use: duties of whoever passes the material itself on. outputs: duties where its outputs improved a model.
        source: the place in the text that says so, in our words.
        prefix: how the name of a model must begin where `llama-name` is owed. built_with: what is displayed then.
        notice: the line of attribution. copy: a copy of the agreement goes along with the material.
        own_kind: outputs may still improve models whose weights are under this same licence.
        hub: the id of the licence on model cards.
    """

    id: str
    name: str
    use: frozenset[str]
    outputs: frozenset[str]
    source: str
    prefix: str = ""
    built_with: str = ""
    notice: str = ""
    copy: bool = False
    own_kind: bool = False
    hub: str = "other"


def _llama(version: str, title: str, use: set[str], outputs: set[str], source: str, **more: object) -> Terms:
    notice = (
        f"{title} is licensed under the {title} Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved."
        if version != "2"
        else "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved."
    )
    fields: dict = {"copy": True, "notice": notice, "hub": f"llama{version}", **more}
    name = f"{title} Community License"
    return Terms(f"LicenseRef-llama{version}", name, frozenset(use), frozenset(outputs), source, **fields)


_NAME = {ATTRIBUTION, LLAMA_NAME}
_LATER = (
    'section 1.b.i: outputs or results may improve another model, whose name then begins with "Llama"; whoever passes the '
    'material or a derivative on displays "Built with Llama", adds a copy of the agreement and (1.b.iii) keeps the notice line'
)
_BUILT: dict = {"prefix": "Llama", "built_with": "Built with Llama"}
_PROVIDER = frozenset({NO_COMPETING})

TERMS = (
    _llama("2", "Llama 2", {ATTRIBUTION}, {NO_TRAINING},
           "section 1.b.v: materials, outputs and results improve no large language model but Llama 2 and its derivatives",
           own_kind=True),
    _llama("3", "Meta Llama 3", _NAME, {NO_TRAINING},
           'section 1.b.v: outputs improve no large language model but Meta Llama 3 and its derivatives; section 1.b.i: the name '
           'of a model made of the materials begins with "Llama 3"',
           own_kind=True, prefix="Llama 3", built_with="Built with Meta Llama 3"),
    _llama("3.1", "Llama 3.1", _NAME, _NAME, _LATER, **_BUILT),
    _llama("3.2", "Llama 3.2", _NAME, _NAME, _LATER, **_BUILT),
    _llama("3.3", "Llama 3.3", _NAME, _NAME, _LATER, **_BUILT),
    _llama("4", "Llama 4", _NAME | {NOT_IN_EU}, _NAME,
           _LATER + "; its policy of use withholds the multimodal weights from the European Union", **_BUILT),
    Terms("LicenseRef-llama3.2-multimodal", "Llama 3.2 Community License (multimodal weights)", frozenset(_NAME | {NOT_IN_EU}),
          frozenset(_NAME), _LATER + "; the policy of use grants no rights in multimodal weights within the European Union",
          notice="Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright (c) Meta Platforms, Inc. "
          "All Rights Reserved.", copy=True, hub="llama3.2", **_BUILT),
    Terms("LicenseRef-gemma", "Gemma Terms of Use", frozenset({ATTRIBUTION, USE_POLICY}), frozenset({ATTRIBUTION, USE_POLICY}),
          "sections 1.1 and 3.1: a model trained on Gemma's outputs to perform like it is a derivative, and its terms and "
          "restrictions of use are passed on",
          notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
          copy=True, hub="gemma"),
    Terms("LicenseRef-qwen", "Qwen License Agreement", frozenset({ATTRIBUTION}), frozenset({ATTRIBUTION}),
          'the Qwen 2 and 2.5 texts for the 72B models: a model improved with the materials or their outputs displays '
          '"Improved using Qwen" in its documentation', built_with="Improved using Qwen", copy=True),
    Terms("LicenseRef-qwen-research", "Qwen Research License Agreement", frozenset({ATTRIBUTION, NON_COMMERCIAL}),
          frozenset({ATTRIBUTION, NON_COMMERCIAL}), "research use only; what it improves displays that",
          built_with="Improved using Qwen", copy=True),
    Terms("LicenseRef-deepseek", "DeepSeek License Agreement", frozenset({ATTRIBUTION, USE_POLICY}), frozenset({USE_POLICY}),
          "section 1.d and attachment A: distillation from outputs makes a derivative, which keeps the restrictions of use",
          copy=True),
    Terms("LicenseRef-mistral-research", "Mistral AI Research License", frozenset({ATTRIBUTION, NON_COMMERCIAL}),
          frozenset({NON_COMMERCIAL}), "research and evaluation only, for the models, derivatives and outputs", copy=True),
    Terms("LicenseRef-openai-terms", "OpenAI Terms of Use", _PROVIDER, _PROVIDER,
          "restrictions of use: output is not used to develop models that compete with OpenAI"),
    Terms("LicenseRef-anthropic-terms", "Anthropic Commercial Terms of Service", _PROVIDER, _PROVIDER,
          "restrictions of use: the services are not used to build a competing product or train competing models"),
    Terms("LicenseRef-google-ai-terms", "Gemini API Additional Terms of Service", _PROVIDER, _PROVIDER,
          "restrictions of use: the services are not used to develop models that compete with them"),
    Terms("LicenseRef-none-needed", "no terms", frozenset(), frozenset(), "nothing to license"),
)  # fmt: skip

_BY_KEY = {terms.id.removeprefix("LicenseRef-"): terms for terms in TERMS}
_BY_KEY |= {"metallama3": _BY_KEY["llama3"], "llama3.0": _BY_KEY["llama3"], "openai": _BY_KEY["openai-terms"]}
_VERSION = re.compile(r"^(?:meta)?llama(2|3(?:\.[0-3])?|4)(?:communitylicense(?:agreement)?)?$")

_NAMES = (  # the first pattern that is found in a model's name decides
    (r"r1-distill-llama-8b", "LicenseRef-llama3.1"), (r"r1-distill-llama-70b", "LicenseRef-llama3.3"),
    (r"r1-distill-qwen", "Apache-2.0"),
    (r"llama[-_ ]?2(?![\d.])", "LicenseRef-llama2"),
    (r"llama[-_ ]?3[._-]1(?![\db])", "LicenseRef-llama3.1"),
    (r"llama[-_ ]?3[._-]2(?![\db]).*vision", "LicenseRef-llama3.2-multimodal"),
    (r"llama[-_ ]?3[._-]2-(11|90)b", "LicenseRef-llama3.2-multimodal"), (r"llama[-_ ]?3[._-]2(?![\db])", "LicenseRef-llama3.2"),
    (r"llama[-_ ]?3[._-]3(?![\db])", "LicenseRef-llama3.3"),
    (r"llama[-_ ]?3(?![\d.]|b\b)", "LicenseRef-llama3"),
    (r"llama[-_ ]?4", "LicenseRef-llama4"),
    (r"\bgpt-?(3\.5|4|5)|chatgpt|davinci|\bo[134](-mini|-preview)?$", "LicenseRef-openai-terms"),
    (r"\bclaude\b", "LicenseRef-anthropic-terms"), (r"\bgemini\b", "LicenseRef-google-ai-terms"),
    (r"\bgemma\b", "LicenseRef-gemma"),
    (r"qwen[-_ ]?(2|2\.5)-72b", "LicenseRef-qwen"), (r"qwen[-_ ]?2\.5-3b", "LicenseRef-qwen-research"),
    (r"qwen[-_ ]?2\.5-(0\.5|1\.5|7|14|32)b|qwen-?3-((coder|next|vl)-)?\d", "Apache-2.0"),
    (r"deepseek-r1(?!-distill|:)", "MIT"), (r"deepseek-v[23]", "LicenseRef-deepseek"),
    (r"mixtral|mistral-7b|mistral-nemo", "Apache-2.0"), (r"mistral-large", "LicenseRef-mistral-research"),
    (r"\bphi-[34]", "MIT"), (r"\bolmo-", "Apache-2.0"),
)  # fmt: skip


def terms_of(licence: str) -> Terms | None:
    """The entry of a licence, however it is spelt (`llama3.1`, `LicenseRef-Llama-3.1`, `Llama 3.1 Community License`)."""
    name = licence.strip().removeprefix("LicenseRef-").lower()
    plain = re.sub(r"[-_ ]", "", name)
    if version := _VERSION.match(plain):
        return _BY_KEY["llama" + version[1].removesuffix(".0")]
    return _BY_KEY.get(name) or _BY_KEY.get(plain)


def licence_of_model(name: str) -> tuple[str, str] | None:
    """Licence that a model's well-known name stands for, and the evidence in words; None for a name that is not known."""
    for pattern, licence in _NAMES:
        if found := re.search(pattern, name.lower()):
            return licence, f"'{found[0]}' in the name '{name}'"
    return None


def hub_id(licence: str) -> str:
    """A licence as model cards name it: lower-case SPDX, Meta's own ids, else `other`, as of an expression."""
    terms = terms_of(licence)
    return terms.hub if terms else ("other" if licence.startswith("LicenseRef-") or " " in licence else licence.lower())
