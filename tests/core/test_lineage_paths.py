"""Paths through a graph in which every stage reads two others: each node once, however many ways lead to it."""

from puna.core.lineage_graph import Edge, Graph, Node

STAGES = 40  # two to the fortieth ways from the last to the first


def ladder() -> Graph:
    """Stage n reads stages n - 1 and n - 2 as data, but for the last one's first input, whose weights go on."""
    graph = Graph()
    start = {"source": "base", "licence": "llama3.1", "rows": 0, "use": "weights"}
    graph.nodes["0"] = Node("0", "s0", "model", "post.start", "", [start])
    for n in range(1, STAGES):
        edges = [Edge(str(n - 1), n == STAGES - 1), *([Edge(str(n - 2), False)] if n > 1 else [])]
        graph.nodes[str(n)] = Node(str(n), f"s{n}", "model", "post.sft", "", [], edges)
    return graph


def test_a_reason_is_found_once_for_each_node():
    graph = ladder()
    reason = graph.owing(str(STAGES - 1), "llama-name")
    assert reason is not None and [part.node.name for part in reason.inputs] == ["s38", "s37"]
    paths = list(reason.paths(lambda node, row: f"{node.name}:{row['source']}"))
    assert [(path[0], path[-2], path[-1]) for path in paths] == [("s39", "s0", "s0:base")]


def test_weights_that_go_on_in_one_way_only_are_told_from_outputs():
    graph = ladder()
    top = Node("top", "top", "model", "post.distil", "", [], [Edge("0", True), Edge("1", False)])
    graph.nodes["top"] = top
    weights = graph.reason("top", lambda row: row.get("use") == "weights")
    outputs = graph.reason("top", lambda row: row.get("use") == "outputs")
    assert weights is not None and [part.node.name for part in weights.inputs] == ["s0"]
    assert outputs is not None and [part.node.name for part in outputs.inputs] == ["s1"]
