"""Licences as data: how they are spelt, what their versions ask for, and which one a model's name stands for."""

import pytest

from puna.core.licences import TERMS, hub_id, licence_of_model, terms_of
from puna.core.lineage import carried_weights, duties, handed_on, obligations, outputs_licence, owed, terms_in

OUTPUTS = {"source": "teacher", "use": "outputs"}


@pytest.mark.parametrize(
    ("spelt", "found"),
    [
        ("llama3.1", "LicenseRef-llama3.1"),
        ("LicenseRef-Llama-3.1", "LicenseRef-llama3.1"),
        ("Llama 3.1 Community License Agreement", "LicenseRef-llama3.1"),
        ("llama3", "LicenseRef-llama3"),
        ("Meta Llama 3 Community License", "LicenseRef-llama3"),
        ("llama2", "LicenseRef-llama2"),
        ("llama3.2-multimodal", "LicenseRef-llama3.2-multimodal"),
        ("gemma", "LicenseRef-gemma"),
        ("llama", None),
        ("llama3.9", None),
        ("MIT", None),
    ],
)
def test_licences_are_known_however_they_are_spelt(spelt, found):
    terms = terms_of(spelt)
    assert (terms.id if terms else None) == found


@pytest.mark.parametrize(
    ("licence", "material", "outputs"),
    [
        ("llama2", {"attribution"}, {"no-training"}),
        ("llama3", {"attribution", "llama-name"}, {"no-training"}),
        ("llama3.1", {"attribution", "llama-name"}, {"attribution", "llama-name"}),
        ("llama3.2-multimodal", {"attribution", "llama-name", "multimodal-not-granted-in-eu"}, {"attribution", "llama-name"}),
        ("openai-terms", {"no-competing-model"}, {"no-competing-model"}),
        ("gemma", {"attribution", "use-policy"}, {"attribution", "use-policy"}),
        ("qwen-research", {"attribution", "non-commercial"}, {"attribution", "non-commercial"}),
        ("Apache-2.0", {"attribution"}, set()),
        ("CC-BY-NC-SA-4.0", {"attribution", "share-alike", "non-commercial"}, {"non-commercial"}),
        ("LicenseRef-llama", {"attribution", "llama-name"}, {"unknown-licence"}),
        ("unknown", {"unknown-licence"}, {"unknown-licence"}),
    ],
)
def test_material_and_outputs_differ(licence, material, outputs):
    assert (duties(licence), duties(licence, "outputs")) == (material, outputs)


def test_llama_3_may_improve_its_own_kind_alone():
    taught = {**OUTPUTS, "licence": "LicenseRef-llama3"}
    own, other = ({"source": "base", "licence": licence, "use": "weights"} for licence in ("llama3", "llama3.1"))
    assert "no-training" in owed(taught, [taught]) and "no-training" in owed(taught, [taught, other])
    assert owed(taught, [taught, own]) == {"attribution", "llama-name"}
    assert obligations([taught, own]) == ["attribution", "llama-name"]


def test_names_and_notices_differ_by_version():
    asked = {key: terms_of(key) for key in ("llama2", "llama3", "llama3.1", "llama3.3")}
    assert [terms.prefix for terms in asked.values()] == ["", "Llama 3", "Llama", "Llama"]
    assert asked["llama3"].built_with == "Built with Meta Llama 3" and asked["llama3.1"].built_with == "Built with Llama"
    for version in ("3.1", "3.3"):
        assert asked[f"llama{version}"].notice.startswith(f"Llama {version} is licensed under the Llama {version} Community")
    assert all(terms.source and terms.id.startswith("LicenseRef-") for terms in TERMS)
    assert [hub_id(name) for name in ("llama3.1", "MIT", "LicenseRef-mine", "MIT AND ISC")] == [
        "llama3.1",
        "mit",
        "other",
        "other",
    ]


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "LicenseRef-llama3.1"),
        ("Meta-Llama-3-70B-Instruct", "LicenseRef-llama3"),
        ("Llama-2-7b-chat-hf", "LicenseRef-llama2"),
        ("Llama-3.2-11B-Vision-Instruct", "LicenseRef-llama3.2-multimodal"),
        ("Llama-3.2-1B", "LicenseRef-llama3.2"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "LicenseRef-llama3.3"),
        ("deepseek-ai/DeepSeek-R1", "MIT"),
        ("gpt-4o-mini", "LicenseRef-openai-terms"),
        ("text-davinci-003", "LicenseRef-openai-terms"),
        ("Qwen/Qwen2.5-72B-Instruct", "LicenseRef-qwen"),
        ("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0"),
        ("google/gemma-2-9b-it", "LicenseRef-gemma"),
        ("meta.llama3-1-70b-instruct-v1:0", "LicenseRef-llama3.1"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "LicenseRef-llama3.3"),
        ("llama3-70b-8192", "LicenseRef-llama3"),
        ("llama-3.2-90b", "LicenseRef-llama3.2-multimodal"),
        ("openlm-research/open_llama_3b", None),
        ("deepseek-r1:70b", None),
        ("Qwen/Qwen3-235B-A22B", "Apache-2.0"),
        ("qwen3-max", None),
        ("our-own-model", None),
    ],
)
def test_a_well_known_name_concludes_a_licence(name, licence):
    found = licence_of_model(name)
    assert (found[0] if found else None) == licence
    assert found is None or name in found[1]


def test_weights_that_only_teach_become_outputs():
    inputs = [("student", "model"), ("teacher", "model"), ("tasks", "tasks")]
    assert carried_weights("model", inputs, None) == [True, True, False]
    assert carried_weights("model", inputs, 1) == [True, False, False]
    assert carried_weights("samples", inputs, None) == [False, False, False]
    judged = [("judge", "reward"), ("student", "model"), ("teacher", "model")]
    assert carried_weights("model", judged, 1) == [False, True, False]
    assert carried_weights("reward", judged, None) == [True, True, True]
    row = {"source": "base", "licence": "llama2", "use": "weights"}
    assert handed_on([row], True) == [row] and handed_on([row], False) == [{**row, "use": "outputs"}]
    assert obligations(handed_on([row], False)) == ["no-training"]


def test_terms_of_what_a_model_writes():
    free = [{"source": "a", "licence": "CC-BY-4.0"}, {"source": "b", "licence": "Apache-2.0", "use": "weights"}]
    assert outputs_licence(free) == "none-needed"
    asked = [
        *free,
        {"source": "c", "licence": "LicenseRef-llama3.1", "use": "outputs"},
        {"source": "d", "licence": "CC-BY-NC-4.0"},
    ]
    assert outputs_licence(asked) == "CC-BY-NC-4.0 AND LicenseRef-llama3.1"
    assert duties(outputs_licence(asked), "outputs") == {"attribution", "llama-name", "non-commercial"}


def test_the_entries_of_an_expression_are_those_that_count():
    assert [terms.id for terms in terms_in("LicenseRef-gemma AND (MIT AND llama3.1)")] == [
        "LicenseRef-gemma",
        "LicenseRef-llama3.1",
    ]
    assert terms_in("llama3.1 OR MIT") == [] and terms_in("MIT AND") == []
