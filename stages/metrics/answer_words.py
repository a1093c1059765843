"""Answers to short questions in their normal form, as the VQA evaluation and the EvalAI server make it."""

import re

NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = frozenset(["a", "an", "the"])
_WITH_APOSTROPHES = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't "
    "he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've "
    "mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't "
    "shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's "
    "something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've "
    "they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's "
    "where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't "
    "wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)


def _contractions() -> dict[str, str]:
    """From words that lack one of their apostrophes to the words. One entry of the official table has its
    sides swapped, and stays so."""
    written = {
        "'".join(parts[:at]) + "'".join(parts[at:]): word
        for word in _WITH_APOSTROPHES.split()
        for parts in [word.split("'")]
        for at in range(1, len(parts))
    }
    return {**written, "somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"\d,+\d")
# The official pattern means to spare periods after a digit, but says something else, and spares none.
_PERIOD = re.compile(r"\.(?!\d)")
# An argument that is taken for flags there is the number of replacements.
_PERIODS = 32


def one_line(answer: str) -> str:
    """Without line breaks and tabs, and without spaces around it; all else as it was written."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def official(answer: str) -> str:
    """Lower case; no punctuation, articles and apostrophe-less contractions; digits for number words."""
    return _words(_without_punctuation(answer, _COMMA_IN_NUMBER))


def evalai(answer: str) -> str:
    """As EvalAI's server: commas, question marks and the s of a genitive are parted first."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return served(one_line(text))


def served(answer: str) -> str:
    """What EvalAI's server does after that; with several commas in a number it differs from `official`."""
    return _words(_without_punctuation(answer, _COMMAS_IN_NUMBER))


def _without_punctuation(text: str, comma: re.Pattern[str]) -> str:
    """A mark that touches a space anywhere is left out everywhere, as all are where a number has a comma; any
    other becomes a space."""
    number = comma.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        if mark in text:
            left_out = number or f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if left_out else " ")
    return _PERIOD.sub("", result, count=_PERIODS)


def _words(text: str) -> str:
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
