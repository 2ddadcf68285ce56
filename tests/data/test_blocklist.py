"""Block lists: every form of rule, what they must not catch, and what is left of a blocked page."""

from __future__ import annotations

import json

import pytest

from puna.core.errors import InputError
from puna.core.stage import local_context
from puna.data import collect
from puna.data.blocklist import host_of, read_block_lists
from puna.data.columns import read_shard_table, shard_paths

RULES = """# a comment
bad.example
[fraud]
=www.exact.org
||adblock.net^
0.0.0.0 hosts-file.com   # with a remark
*free-money*
/casino-?\\d+/
münchen.example
"""


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "list.txt").write_text(RULES)
    return read_block_lists([tmp_path / "list.txt"], default=False)


@pytest.mark.parametrize(("url", "reason"), [
    ("http://bad.example/x", "block list: bad.example"),
    ("https://a.b.BAD.example:8080/x", "block list: bad.example"),
    ("http://notbad.example/", ""),
    ("http://bad.example.org/", ""),
    ("http://ok.org/?u=bad.example", ""),
    ("http://www.exact.org/", "fraud: =www.exact.org"),
    ("http://sub.www.exact.org/", ""),
    ("http://exact.org/", ""),
    ("http://x.adblock.net/", "fraud: adblock.net"),
    ("http://hosts-file.com./", "fraud: hosts-file.com"),
    ("http://ok.org/get-FREE-money-now", "fraud: *free-money*"),
    ("http://ok.org/casino12", "fraud: /casino-?\\d+/"),
    ("http://ok.org/casino", ""),
    ("http://user:pw@www.exact.org/", "fraud: =www.exact.org"),
    ("file:bad.example/a.txt#1", ""),
    ("http://[broken", ""),
    ("", ""),
])  # fmt: skip
def test_rules(rules, url, reason):
    assert rules.reason(url) == reason


def test_hosts():
    assert [host_of(url) for url in ("HTTP://A.b:80/c", "a.b/c", "file:x", "http://")] == ["a.b", "a.b", "", ""]


@pytest.mark.parametrize("line", ["/(/", "two words", "=", "http://a.b/c"])
def test_a_line_that_is_no_rule_is_named(tmp_path, line):
    (tmp_path / "list.txt").write_text("ok.org\n" + line + "\n")
    with pytest.raises(InputError) as error:
        read_block_lists([tmp_path / "list.txt"])
    assert "list.txt line 2" in str(error.value.where)
    with pytest.raises(InputError, match="cannot be read"):
        read_block_lists([tmp_path / "absent.txt"])


def test_the_built_in_list_is_small_and_says_why():
    rules = read_block_lists([])
    assert rules.reason("https://www.spokeo.com/John").startswith("people search: ")
    assert rules.reason("http://anything.xxx/").startswith("adult: ")
    for harmless in (
        "http://www.essex.ac.uk/",
        "http://sexton.org/",
        "https://en.wikipedia.org/wiki/Sex",
        "http://adultlearning.edu/",
    ):
        assert rules.reason(harmless) == ""


def test_blocked_pages_keep_their_row_without_content(tmp_path):
    rows = [
        {"text": f"text {i}", "url": f"http://{host}/{i}"} for i, host in enumerate(["ok.org", "bad.example", "x.bad.example"])
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "list.txt").write_text("[mine]\nbad.example\n")
    settings = collect.Settings(sources=[str(tmp_path / "a.jsonl")], block={"lists": [str(tmp_path / "list.txt")]})
    summary = collect.run(settings, local_context(tmp_path / "out"))
    assert summary["blocked"] == 2 and summary["pages"] == 3
    assert summary["sources"]["a.jsonl"]["blocked"] == {"mine": 2}
    [path] = shard_paths(tmp_path / "out" / "shards")
    assert [(row["content"], row["blocked"]) for row in read_shard_table(path)] == [
        (b"text 0", ""), (b"", "mine: bad.example"), (b"", "mine: bad.example")]  # fmt: skip
    before = collect.outside(settings)
    (tmp_path / "list.txt").write_text("[mine]\nother.example\n")
    assert collect.outside(settings) != before
