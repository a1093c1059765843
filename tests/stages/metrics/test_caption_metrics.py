from collections.abc import Callable

import numpy as np
import pytest

from stages.metrics.bleu import bleu
from stages.metrics.captions import caption_scores, tokenized
from stages.metrics.cider import Frequencies, cider, frequencies
from stages.metrics.ngrams import Captions
from stages.metrics.rouge import rouge_l
from stages.metrics.scores import Scores
from tests.stages.metrics.frozen import captions, example, frozen

OFFICIAL = {
    "BLEU-1": 0.5793995754573356,
    "BLEU-2": 0.40439129741018104,
    "BLEU-3": 0.2785363856619147,
    "BLEU-4": 0.1908290437674253,
    "ROUGE-L": 0.39625269357570847,
    "CIDEr": 0.5997905185184199,
}
EXAMPLE = example()


def test_scores_of_the_official_example_are_the_published_ones() -> None:
    found = {one.name: one.score() for one in caption_scores(EXAMPLE)}
    assert found == pytest.approx(OFFICIAL, abs=1e-10)


@pytest.mark.parametrize("number", range(8))
def test_scores_and_item_scores_are_those_of_the_official_code(number: int) -> None:
    known = frozen("caption_scores")[number]
    found = caption_scores(captions(known["predictions"], known["references"]))
    assert [one.score() for one in found] == pytest.approx(known["scores"], abs=1e-10)
    for one, items in zip(found, known["items"], strict=True):
        np.testing.assert_allclose(one.items(), items, atol=1e-10, err_msg=one.name)


def test_the_order_of_items_changes_nothing() -> None:
    known = frozen("coco_example")
    order = np.random.default_rng(1).permutation(300)
    first = caption_scores(captions(known["predictions"][:300], known["references"][:300]))
    other = caption_scores(
        captions([known["predictions"][i] for i in order], [known["references"][i] for i in order])
    )
    for one, two in zip(first, other, strict=True):
        assert two.score() == pytest.approx(one.score(), abs=1e-12)
        np.testing.assert_allclose(two.items(), one.items()[order], atol=1e-12)


def test_the_order_of_references_changes_nothing() -> None:
    known = frozen("coco_example")
    turned = [texts[::-1] for texts in known["references"][:300]]
    first = caption_scores(captions(known["predictions"][:300], known["references"][:300]))
    other = caption_scores(captions(known["predictions"][:300], turned))
    for one, two in zip(first, other, strict=True):
        np.testing.assert_allclose(two.items(), one.items(), atol=1e-12)


def test_a_perfect_prediction_scores_1_and_10_in_cider() -> None:
    texts = ["a dog runs on green grass", "two cats sleep in the sun", "the bus is red and very old"]
    found = {one.name: one.score() for one in caption_scores(captions(texts, [[text] for text in texts]))}
    assert found.pop("CIDEr") == pytest.approx(10)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-8)


def test_a_prediction_without_a_common_word_scores_nothing() -> None:
    nothing = captions(["x y z w v", "a b c d e"], [["k l m n o"], ["p q r s t"]])
    assert [one.score() for one in caption_scores(nothing)] == pytest.approx([0] * 6, abs=1e-3)


def test_an_empty_prediction_scores_nothing_and_breaks_nothing() -> None:
    found = caption_scores(captions(["", "a dog runs here now"], [["a cat"], ["a dog runs here now"]]))
    for one in found:
        assert one.items()[0] == pytest.approx(0, abs=1e-6)
        assert one.items()[1] > 0.9


def test_bleu_takes_the_closest_reference_length_and_the_shorter_of_two() -> None:
    # Of 5 and 3 tokens both are one away from 4: with 3 there is no penalty, with 5 there would be one.
    both = captions(["a b c d"], [["a b c d e", "a b c"]])
    only = captions(["a b c d"], [["a b c d e"]])
    assert bleu(both)[0].score() == pytest.approx(1)
    assert bleu(only)[0].score() == pytest.approx(np.exp(1 - 5 / 4))


def test_rouge_takes_precision_and_recall_from_different_references() -> None:
    # The first reference holds all of the prediction, the second is all in it.
    found = rouge_l(captions(["a b c d"], [["a b c d e f g h", "a b"]]))
    assert found.score() == pytest.approx(1)


def test_cider_of_one_item_is_0_for_no_word_of_it_is_rare() -> None:
    assert cider(captions(["a dog"], [["a dog"]])).score() == 0


def test_cider_with_its_own_frequencies_given_is_the_same() -> None:
    given = frequencies(EXAMPLE)
    assert given.items == 1000
    np.testing.assert_array_equal(cider(EXAMPLE, given).items(), cider(EXAMPLE).items())


def test_cider_with_given_frequencies_does_not_depend_on_the_other_items() -> None:
    given = frequencies(EXAMPLE)
    known = frozen("coco_example")
    part = captions(known["predictions"][:10], known["references"][:10])
    np.testing.assert_allclose(cider(part, given).items(), cider(EXAMPLE).items()[:10], atol=1e-12)


def test_cider_gives_words_that_no_reference_has_the_highest_weight() -> None:
    pair = captions(["a rare dog"], [["a rare dog"]])
    common, rare = ({"a": 100, "rare": count, "dog": 100} for count in (100, 1))
    assert cider(pair, Frequencies(100, common)).score() > 0
    lone = captions(["a rare x"], [["a rare dog"]])
    known = [cider(lone, Frequencies(100, counts)).score() for counts in (common, rare)]
    assert known[0] < known[1]


@pytest.mark.parametrize("metric", [lambda one: bleu(one)[3], rouge_l, cider])
def test_resampled_scores_are_those_of_items_taken_so_often(metric: Callable[[Captions], Scores]) -> None:
    scores = metric(EXAMPLE)
    weights = np.random.default_rng(2).multinomial(1000, np.full(1000, 1 / 1000), size=3).astype(np.float64)
    repeated = [scores.take(np.repeat(np.arange(1000), row.astype(int))).score() for row in weights]
    assert scores.weighted(weights) == pytest.approx(repeated, abs=1e-12)


def test_tokenized_makes_tokens_of_both_sides() -> None:
    made = tokenized(["A dog's bed."], [["The dog, it's here!", "No dogs"]])
    assert made.predictions == ["a dog 's bed"]
    assert made.references == ["the dog it 's here", "no dogs"]


def test_items_without_references_are_refused() -> None:
    with pytest.raises(ValueError, match="item 1 has no reference"):
        tokenized(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="2 predictions"):
        tokenized(["a", "b"], [["a"]])
