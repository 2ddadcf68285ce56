"""The network against transformers' LlamaForCausalLM: logits, gradients, greedy text; and the document mask."""

import math

import pytest
import torch

from puna.model.attention import document_mask
from puna.model.config import ModelConfig, RopeScaling
from puna.model.llama import Llama, rope_frequencies, rotate

TOLERANCE = 1e-5
SHAPES = {
    "multi-head": {"vocab_size": 67, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 4, "ffn_dim": 48, "rope_theta": 10000.0},
    "grouped": {"vocab_size": 131, "dim": 48, "layers": 3, "heads": 6, "kv_heads": 2, "ffn_dim": 96},
    "one kv head, tied": {
        "vocab_size": 80,
        "dim": 64,
        "layers": 2,
        "heads": 8,
        "kv_heads": 1,
        "ffn_dim": 64,
        "tied": True,
        "norm_eps": 1e-6,
    },
    "wide heads": {"vocab_size": 50, "dim": 24, "layers": 1, "heads": 2, "kv_heads": 1, "ffn_dim": 40, "head_dim": 32},
    "scaled rope": {
        "vocab_size": 67,
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "ffn_dim": 96,
        "rope_scaling": RopeScaling(8, 1, 4, 64),
    },
    "scaled rope, tied": {
        "vocab_size": 90,
        "dim": 48,
        "layers": 2,
        "heads": 2,
        "kv_heads": 2,
        "ffn_dim": 64,
        "tied": True,
        "rope_theta": 10000.0,
        "rope_scaling": RopeScaling(2.5, 0.5, 3, 32),
        "max_seq_len": 512,
    },
}


def pair(shape: dict, seed: int = 0) -> tuple[Llama, torch.nn.Module]:
    """Our model and transformers' with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = ModelConfig(**({"max_seq_len": 256} | shape))
    ours = Llama(config, seed=seed)
    with torch.no_grad():  # unlike a fresh model, so that every term matters
        for index, weight in enumerate(ours.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)), alpha=0.1)
    theirs = LlamaForCausalLM(LlamaConfig(**config.to_hf())).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def random_ids(config: ModelConfig, *shape: int) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_gradients_equal_transformers(name):
    ours, theirs = pair(SHAPES[name])
    ids = random_ids(ours.config, 3, 90)
    mine, reference = ours(ids), theirs(ids).logits
    torch.testing.assert_close(mine, reference, atol=TOLERANCE, rtol=TOLERANCE)
    for logits in (mine, reference):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = dict(theirs.named_parameters())
    assert dict(ours.named_parameters()).keys() == expected.keys()
    for key, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, expected[key].grad, atol=TOLERANCE, rtol=TOLERANCE, msg=key)


class GrowingCache:
    """The simplest cache that keeps the contract: everything seen so far, in order."""

    def __init__(self):
        self.kept = {}

    def update(self, layer, k_BKTE, v_BKTE):
        old = self.kept.get(layer)
        new = (k_BKTE, v_BKTE) if old is None else (torch.cat((old[0], k_BKTE), 2), torch.cat((old[1], v_BKTE), 2))
        self.kept[layer] = new
        return new


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_greedy_generation_with_a_cache_equals_transformers(name):
    ours, theirs = pair(SHAPES[name], seed=1)
    prompt = random_ids(ours.config, 2, 9)
    expected = theirs.generate(prompt, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    cache, ids = GrowingCache(), prompt
    logits = ours(prompt, cache=cache)
    while True:
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
        if ids.shape[1] == expected.shape[1]:
            break
        logits = ours(ids[:, -1:], positions_BT=torch.full((2, 1), ids.shape[1] - 1), cache=cache)
    assert ids.tolist() == expected.tolist()


@torch.no_grad()
def test_a_prompt_in_chunks_equals_the_prompt_at_once():
    ours, _ = pair(SHAPES["grouped"])
    ids = random_ids(ours.config, 2, 40)
    cache, parts = GrowingCache(), []
    for start in range(0, 40, 16):
        positions = torch.arange(start, min(start + 16, 40)).expand(2, -1)
        parts.append(ours(ids[:, start : start + 16], positions_BT=positions, cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), ours(ids), atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_ragged_positions_and_masks_in_one_decode_step_equal_each_row_alone():
    ours, _ = pair(SHAPES["scaled rope"])
    lengths = [5, 17, 11]
    rows = [random_ids(ours.config, 1, 32)[:, :n] for n in lengths]
    caches = [GrowingCache() for _ in rows]
    for row, cache in zip(rows, caches, strict=True):
        ours(row, cache=cache)

    class Joined:
        def update(self, layer, k_BKTE, v_BKTE):
            def widen(old, new):
                return torch.nn.functional.pad(torch.cat((old, new), 2), (0, 0, 0, max(lengths) - old.shape[2]))

            kept = [cache.kept[layer] for cache in caches]
            both = [torch.cat([widen(old[i], new[b : b + 1]) for b, old in enumerate(kept)])
                    for i, new in ((0, k_BKTE), (1, v_BKTE))]  # fmt: skip
            return both[0], both[1]

    new = torch.tensor([[3], [4], [5]])
    mask = torch.tensor([[s <= n for s in range(max(lengths) + 1)] for n in lengths])[:, None, None]
    step = ours(new, positions_BT=torch.tensor(lengths)[:, None], mask=mask, cache=Joined())
    for b, row in enumerate(rows):
        alone = ours(torch.cat((row, new[b : b + 1]), 1))[:, -1]
        torch.testing.assert_close(step[b : b + 1, -1], alone, atol=TOLERANCE, rtol=TOLERANCE)


def packed(documents: list[torch.Tensor], length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One row of documents, padding at its end: ids, positions, document ids."""
    ids, positions, owner = (torch.zeros(1, length, dtype=torch.long) for _ in range(3))
    owner.fill_(-1)
    start = 0
    for number, document in enumerate(documents):
        span = slice(start, start + len(document))
        ids[0, span], positions[0, span], owner[0, span] = document, torch.arange(len(document)), number
        start += len(document)
    return ids, positions, owner


def test_packed_documents_equal_documents_alone_in_logits_and_gradients():
    ours, theirs = pair(SHAPES["scaled rope"])
    documents = [random_ids(ours.config, n) for n in (13, 1, 30, 8)]
    ids, positions, owner = packed(documents, 60)
    logits = ours(ids, positions_BT=positions, mask=document_mask(owner))
    assert torch.isfinite(logits).all()
    start = 0
    for document in documents:
        alone = theirs(document[None]).logits[0]
        torch.testing.assert_close(logits[0, start : start + len(document)], alone, atol=TOLERANCE, rtol=TOLERANCE)
        alone.sum().backward()
        start += len(document)
    logits[:, :start].sum().backward()
    expected = dict(theirs.named_parameters())
    for key, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, expected[key].grad, atol=1e-4, rtol=1e-4, msg=key)


@torch.no_grad()
def test_changing_one_document_leaves_the_others_untouched():
    ours, _ = pair(SHAPES["grouped"])
    documents = [random_ids(ours.config, n) for n in (12, 20)]
    ids, positions, owner = packed(documents, 40)
    mask = document_mask(owner)
    changed = ids.clone()
    changed[0, :12] = (changed[0, :12] + 1) % ours.config.vocab_size
    before, after = ours(ids, positions_BT=positions, mask=mask), ours(changed, positions_BT=positions, mask=mask)
    assert torch.equal(before[:, 12:32], after[:, 12:32])
    assert not torch.allclose(before[:, :12], after[:, :12])
    assert not torch.allclose(ours(ids)[:, 12:32], ours(changed)[:, 12:32])  # without the mask they do see each other


def test_document_mask_by_hand():
    mask = document_mask(torch.tensor([[0, 0, 1, -1, -1]]))
    assert mask.shape == (1, 1, 5, 5) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_rope_of_the_3_1_release_keeps_29_blends_6_and_divides_29_frequencies():
    plain, scaled = rope_frequencies(128, 500000.0), rope_frequencies(128, 500000.0, RopeScaling())
    kept, divided = (scaled == plain).sum().item(), torch.isclose(scaled, plain / 8, rtol=1e-6).sum().item()
    assert (kept, divided, 64 - kept - divided) == (29, 29, 6)
    assert plain[1].item() == pytest.approx(500000.0 ** (-2 / 128))


def test_rotation_is_a_complex_product_on_half_split_pairs():
    ours = Llama(ModelConfig(**SHAPES["grouped"]))
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 7, 300, 2, 2], [1, 1, 90000, 5, 4]])
    turned = rotate(x, ours.model.rope(5, positions, x.device))
    angles = positions[..., None].double() * rope_frequencies(8, 500000.0).double()
    product = torch.complex(x[..., :4].double(), x[..., 4:].double()) * torch.polar(torch.ones_like(angles), angles)[:, :, None]
    torch.testing.assert_close(turned.double(), torch.cat((product.real, product.imag), -1), atol=2e-2, rtol=0)
    torch.testing.assert_close(turned[:, :, :, :][positions < 400].double(),
                               torch.cat((product.real, product.imag), -1)[positions < 400], atol=1e-4, rtol=0)  # fmt: skip


def test_start_weights_depend_on_seed_and_name_only():
    config = ModelConfig(**SHAPES["grouped"])
    before = torch.get_rng_state()
    one, same, other = Llama(config, seed=3), Llama(config, seed=3), Llama(config, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    deeper = Llama(ModelConfig(**(SHAPES["grouped"] | {"layers": 5})), seed=3)
    assert torch.equal(one.model.layers[1].mlp.gate_proj.weight, deeper.model.layers[1].mlp.gate_proj.weight)
    layer = one.model.layers[0]
    assert layer.mlp.gate_proj.weight.std().item() == pytest.approx(0.5 * 48**-0.5, rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(0.5 * 48**-0.5 / math.sqrt(6), rel=0.05)
    assert one.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_bfloat16_stays_near_float32_and_gives_float32_logits():
    ours, _ = pair(SHAPES["grouped"])
    ids = random_ids(ours.config, 2, 20)
    exact = ours(ids)
    rounded = ours.to(torch.bfloat16)(ids)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()


def test_tables_made_while_generating_serve_training():
    ours, _ = pair(SHAPES["multi-head"])
    ids = random_ids(ours.config, 1, 12)
    with torch.inference_mode():
        ours(ids)
    ours(ids).sum().backward()
    assert ours.lm_head.weight.grad is not None
