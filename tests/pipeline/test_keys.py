"""Keys: the same for the same work, different for anything that changes the output."""

from __future__ import annotations

from edgemm.pipeline.keys import canonical_json, content_key, files_digest, library_versions
from edgemm.pipeline.node import Node


def key(**changes):
    given = {"name": "distill", "stage": "distill", "inputs": {"teacher": "teach"}, "config": {"seed": 0, "lr": 0.1}}
    node = Node(**{**given, **changes.pop("node", {})}, work=lambda inputs, out, context: None)
    return content_key(node.facts(changes.pop("digests", {"teacher": "a" * 64})))


def test_a_key_is_stable():
    # Frozen on purpose: a change of how keys are made throws everybody's store away.
    assert content_key({"b": 1, "a": ["é", 0.5, None]}) == (
        "d28242c02a4f519c442e654428047c8dbb47e0f6ddf6a71dc87d4b7d111dd266"
    )


def test_the_order_of_keys_changes_nothing():
    assert canonical_json({"a": 1, "b": {"d": 1, "c": 2}}) == canonical_json({"b": {"c": 2, "d": 1}, "a": 1})


def test_everything_that_changes_the_output_changes_the_key():
    keys = [
        key(),
        key(node={"config": {"seed": 1, "lr": 0.1}}),
        key(node={"config": {"seed": 0, "lr": 0.2}}),
        key(node={"version": 2}),
        key(node={"libraries": ("numpy",)}),
        key(node={"name": "prune"}),
        key(digests={"teacher": "b" * 64}),
        key(digests={"student": "a" * 64}),
    ]
    assert len(set(keys)) == len(keys)


def test_what_changes_no_output_changes_no_key():
    assert key() == key(node={"makes": "a student"}) == key(node={"collective": True})


def test_a_hub_name_counts_as_the_snapshot_in_the_cache(monkeypatch):
    import huggingface_hub

    from edgemm.pipeline.stages import portable
    from edgemm.recipe import TeacherSection

    section = TeacherSection(source="hf:someone/clip")
    commits = ["/cache/snapshots/aaa", "/cache/snapshots/bbb", None]

    def cached(*_, **given):
        assert given["local_files_only"]
        if commits[0] is None:
            raise FileNotFoundError("not cached")
        return commits.pop(0)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    found = [portable(section)["source"] for _ in range(3)]
    assert found == ["hf:someone/clip@aaa", "hf:someone/clip@bbb", "hf:someone/clip"]


def test_a_library_that_is_not_installed_is_a_fact_too():
    assert library_versions(["no-such-distribution"]) == {"no-such-distribution": None}


def test_a_digest_depends_on_paths_and_contents_but_not_on_their_order():
    assert files_digest({"a": "1", "b": "2"}) == files_digest({"b": "2", "a": "1"})
    assert files_digest({"a": "1", "b": "2"}) != files_digest({"a": "2", "b": "1"})
