from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from edgemm.runtime import chain
from edgemm.runtime.chain import BrokenChain, Placeholders


@dataclass(frozen=True)
class Named:
    """The least that a chain asks of a part."""

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


FRONTEND = Named("frontend", ("image",), ("pixels",))
IMAGE = Named("image", ("pixels",), ("image_features",))
TEXT = Named("text", ("ids", "mask"), ("text_features",))
FUSION = Named("fusion", ("image_features", "text_features"), ("fused",))
HEAD = Named("head", ("fused",), ("answer", "doubt"))
BESIDE = Named("beside", ("image_features",), ("embedding",))
PARTS = (FRONTEND, IMAGE, TEXT, FUSION, HEAD, BESIDE)
ADDED = {part.name: 10.0**place for place, part in enumerate(PARTS)}  # digits say which parts a number has been through


def add(part: Named, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sum of the feeds and a number of the part's own."""
    total = np.sum(list(feeds.values()), axis=0) + ADDED[part.name]
    return dict.fromkeys(part.output_names, total)


def halves(name: str, count: int) -> np.ndarray:
    return np.repeat(np.array([0.5]), count, axis=0)


def test_a_part_runs_where_all_of_its_inputs_are_known() -> None:
    assert chain.runnable(PARTS, ["image"]) == (FRONTEND, IMAGE, BESIDE)
    assert chain.runnable(PARTS, ["ids", "mask"]) == (TEXT,)
    assert chain.runnable(PARTS, ["ids"]) == ()


def test_what_is_reachable_is_what_is_given_and_what_is_made_of_it() -> None:
    assert chain.reachable(PARTS, ["image"]) == {"image", "pixels", "image_features", "embedding"}


def test_only_the_parts_that_an_output_depends_on_are_needed_for_it() -> None:
    assert chain.needed_for(PARTS, ["embedding"]) == (FRONTEND, IMAGE, BESIDE)
    assert chain.needed_for(PARTS, ["doubt"]) == (FRONTEND, IMAGE, TEXT, FUSION, HEAD)


def test_sources_are_the_raw_values_that_an_output_depends_on() -> None:
    assert chain.sources_of(PARTS, ["text_features"]) == {"ids", "mask"}
    assert chain.sources_of(PARTS, ["answer"]) == {"image", "ids", "mask"}


def test_the_origins_of_a_value_are_all_that_it_was_made_from() -> None:
    made_from = chain.origins(PARTS, {"image": "image", "ids": "text", "mask": "text"})
    assert made_from["text_features"] == {"text"}
    assert made_from["doubt"] == {"image", "text"}


def test_what_is_handed_over_is_what_others_take_and_what_is_asked_for() -> None:
    assert chain.handed_over([FRONTEND, IMAGE], PARTS) == {"image_features", "ids", "mask", "text_features", "fused"}
    assert "answer" in chain.handed_over(PARTS, PARTS, outputs=["answer"])
    assert chain.handed_over(PARTS, PARTS) == frozenset()


def test_a_whole_chain_says_what_makes_each_value() -> None:
    made = chain.makers(PARTS, {"image": "the camera", "ids": "the tokenizer", "mask": "the tokenizer"})
    assert made["image"] == "the camera"
    assert made["doubt"] == "part 'head'"


def test_an_input_that_nothing_makes_breaks_the_chain() -> None:
    with pytest.raises(BrokenChain, match="nothing before it makes its input 'mask'") as found:
        chain.makers(PARTS, {"image": "the camera", "ids": "the tokenizer"})
    assert found.value.part == 2


def test_a_value_that_is_made_twice_breaks_the_chain() -> None:
    with pytest.raises(BrokenChain, match="value 'pixels' is already made by part 'frontend'") as found:
        chain.makers([FRONTEND, Named("again", ("image",), ("pixels",))], {"image": "the camera"})
    assert found.value.part == 1


def test_a_trace_says_what_each_part_was_fed_and_made() -> None:
    seen = list(chain.trace(PARTS, {"image": np.array([1.0])}, add))
    assert [(part.name, dict(feeds), dict(made)) for part, feeds, made in seen] == [
        ("frontend", {"image": 1.0}, {"pixels": 2.0}),
        ("image", {"pixels": 2.0}, {"image_features": 12.0}),
        ("beside", {"image_features": 12.0}, {"embedding": 100012.0}),
    ]


def test_a_part_whose_outputs_are_given_is_not_run_again() -> None:
    given = {"image": np.array([1.0]), "image_features": np.array([7.0])}
    assert [part.name for part, _, _ in chain.trace(PARTS, given, add)] == ["frontend", "beside"]
    assert chain.run_all(PARTS, given, add)["embedding"] == 100007.0


def test_a_placeholder_takes_the_place_of_what_nothing_made_for_as_many_samples() -> None:
    placeholders = Placeholders({"text_features"}, halves)
    made = chain.run_all(PARTS, {"image": np.array([1.0, 2.0, 3.0])}, add, placeholders=placeholders)
    assert made["answer"].tolist() == [11012.5, 11013.5, 11014.5]


def test_a_placeholder_leaves_alone_what_is_made() -> None:
    given = {name: np.array([1.0]) for name in ("image", "ids", "mask")}
    made = chain.run_all(PARTS, given, add, placeholders=Placeholders({"text_features"}, halves))
    assert made["text_features"] == 102.0


def test_nothing_is_run_again_or_changed_in_what_was_given() -> None:
    given = {"image": np.array([1.0])}
    chain.run_all(PARTS, given, add)
    assert given.keys() == {"image"}
