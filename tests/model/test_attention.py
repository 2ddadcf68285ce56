"""One rule of who sees whom, and both ways to attend by it; the GPU's way runs forward on a CPU too."""

import torch
from torch.nn.attention.flex_attention import create_block_mask

from puna.model.attention import additive, attend, dense_mask, document_mask, document_rule

DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7 + [2] * 2 + [-1] * 2, [3] * 16])


def by_hand(documents):
    rows, length = documents.shape
    mask = torch.zeros(rows, 1, length, length, dtype=torch.bool)
    for row in range(rows):
        for query in range(length):
            for key in range(query + 1):
                same = documents[row, query] == documents[row, key] and documents[row, query] >= 0
                mask[row, 0, query, key] = same or query == key
    return mask


def test_the_rule_is_causal_within_documents():
    assert torch.equal(document_mask(DOCUMENTS), by_hand(DOCUMENTS))


def test_parts_of_rows_see_what_the_whole_rows_see():
    queries, keys = torch.tensor([0, 1, 14, 15]), torch.randperm(16)
    part = dense_mask(document_rule(DOCUMENTS, queries, keys), 2, 4, 16, torch.device("cpu"))
    assert torch.equal(part, by_hand(DOCUMENTS)[:, :, queries][..., keys])


def test_block_masks_attend_like_dense_ones():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 16, 8), torch.randn(2, 2, 16, 8), torch.randn(2, 2, 16, 8)
    rule = document_rule(DOCUMENTS)
    blocks = create_block_mask(rule, 2, None, 16, 16, device="cpu")
    dense = additive(document_mask(DOCUMENTS), q.dtype)
    with torch.no_grad():
        assert torch.allclose(attend(q, k, v, blocks), attend(q, k, v, dense), atol=1e-5)
