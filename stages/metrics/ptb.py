"""Penn Treebank tokens as the COCO caption evaluation makes them.

There they come from the PTBTokenizer of Stanford CoreNLP 3.4.1, in lower case, without the tokens of a list
of punctuation. That is a Java program; this does what it does: its kinds of tokens as they are known, each
checked and completed by asking it. It is a lexer: at each place the kind of token that reaches furthest wins,
and of equally long ones the one that is named first. What follows a token may be part of its kind, and counts
for its reach.

There all captions are one text, a line each. So "no." keeps its period where the next caption begins with a
number, and "A." loses it where that begins with "The"; here a caption's tokens depend on nothing else.
"""

import re
from collections.abc import Iterator
from re import Pattern
from string import ascii_letters

from stages.metrics import ptb_words as words
from stages.metrics.ptb_characters import MARKS, SYMBOLS, UNKNOWN, characters

# The official list. It has brackets too, but in upper case, which lower-cased tokens never equal: "(" stays
# as "-lrb-". So does punctuation that it does not name, as "!!" and "%".
_REMOVED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_DROPPED = "\x01"
_BASIC_PLANE = [chr(code) for code in range(0x80, 0x10000) if not 0xD800 <= code < 0xE000]
_UNKNOWN = frozenset(characters(UNKNOWN))
_DIGITS = [*"0123456789", *(c for c in _BASIC_PLANE if c.isdecimal() and c not in _UNKNOWN)]
_LETTERS = [*ascii_letters, *(c for c in _BASIC_PLANE if c.isalpha() and c not in _UNKNOWN)]
# The soft hyphen is part of a word, and then left out.
_MARKS = ["\xad", *characters(MARKS)]
_HYPHENS = r"\-_\u058a\u2010\u2011"
_KNOWN = frozenset(
    [*characters(SYMBOLS), *_LETTERS, *_DIGITS, *_MARKS, *"\xa0\x85\u058a\u2010\u2011\u066b\u066c"]
)
_CURLY = "\x80\x91\x92\x93\x94\x96\x97"
_DROP = {ord(c): _DROPPED for c in _BASIC_PLANE if c not in _KNOWN and c not in _CURLY}
_BEYOND = re.compile("[\U00010000-\U0010ffff]")

# What single characters become.
_BECOMES = {
    **dict.fromkeys("\x80\xa4\u20a0\u20ac", "$"),
    **dict.fromkeys("\x91\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\x92\u2019\u203a", "'"),
    **dict.fromkeys("\x93\xab\u201c", "``"),
    **dict.fromkeys("\x94\xbb\u201d", "''"),
    **dict.fromkeys("\x96\x97\u2013\u2014\u2015", "--"),
    **dict.fromkeys("\x85\u2026", "..."),
    **{"....": "...", "---": "--", "----": "--", "\xa2": "cents", "\xa3": "#", '"': "''"},
    **{"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
    **{"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{
        "&amp;": "&",
        "&lt;": "<",
        "&gt;": ">",
        "&quot;": "''",
        "&apos;": "'",
        "&nbsp;": "",
        "&mdash;": "--",
        "&ndash;": "--",
        "&md;": "--",
    },
}


def _one_of(known: list[str]) -> str:
    """A class of characters, by ranges: compiled in a tenth of the time that single ones take."""
    ranges: list[list[int]] = []
    for code in sorted({ord(character) for character in known}):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in ranges)}]"


_NAMES = {
    "L": _one_of(_LETTERS),
    "W": _one_of(_LETTERS + _MARKS),
    "D": _one_of(_DIGITS),
    "M": _one_of(_LETTERS + _DIGITS + _MARKS),
    "N": _one_of([*_LETTERS, *_DIGITS, "\xad"]),
    "A": "(?:['\x92\u2019]|&apos;)",
    "Q": "(?:['\x92\u2019`\x91\u2018\u201b]|&apos;)",
    "H": f"[{_HYPHENS}]",
    "ALWAYS": "|".join(words.ALWAYS.split()),
    "CAPITALISED": "|".join(f"{word[0].upper()}(?i:{word[1:]})" for word in words.ALWAYS_CAPITALISED.split()),
    "SPACE": "|".join(words.BEFORE_SPACE.split()),
    "NUMBER": "|".join(words.BEFORE_NUMBER.split()),
    "APOSTROPHE": "|".join(words.WITH_APOSTROPHE.split()),
    "CUT": "|".join(words.CUT_AFTER),
    "ENTITY": "&(?:[aeiouAEIOU](?:acute|grave|uml));",
    "ACRONYM": r"[A-Za-z](?:\.[A-Za-z])+\.",
    "FILES": "bat|bmp|c|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png"
    "|ppt|ps|py|sql|tar|txt|wav|x|xml|zip",
    "WORD": "(?:<W>|<ENTITY>)(?:<M>|<ENTITY>)*(?:[.!?]<W><M>*)*",
    "INITIAL": "|".join(words.AFTER_INITIAL.replace(".", r"\.").split()),
    "JOINED": "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+",
    "TAG": r"<(?:[!?][A-Za-z\-][^>\r\n]*|/[A-Za-z][\w:.\-]*[ ]*|[A-Za-z][\w:.\-]*(?:[ ]+<ATTRIBUTE>)*"
    r"[ ]*/?)>",
    "ATTRIBUTE": r"(?:[A-Za-z][\w:.\-]*[ ]*=[ ]*(?:'[^']*'|\"[^\"]*\")|[A-Za-z][\w:.\-]*)",
    "EMAIL": r"[a-zA-Z0-9][^ \t\r\n\f\"<>|()\xa0{}]*@(?:[^ \t\r\n\f\"<>|(){}.\xa0]+\.)*"
    r"[^ \t\r\n\f\"<>|(){}.\xa0]+",
    "THING": "(?:[dDoOlL]<Q><N>)?<N>+(?:<H>(?:[dDoOlL]<Q><N>)?<N>+)*",
    "HYPHENED": "[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:<ACRONYM>|[A-Za-z0-9]+))+",
    "URL": r'[^ \t\r\n\f"<>|(){}]+[^ \t\r\n\f"<>|.!?(){},\-]',
}
_NAME = re.compile(f"<({'|'.join(_NAMES)})>")
_NAME = re.compile(f"<({'|'.join(_NAMES)})>")
_NAME = re.compile(f"<({'|'.join(_NAMES)})>")
_NAME = re.compile(f"<({'|'.join(_NAMES)})>")
_CUT_KIND = "(?i:<CUT>)"
# In the order of precedence. <X> stands for a name above; what is in « » is the token, else all of it is.
_KINDS = [
    "<TAG>",
    r"(?i:&(?:amp|lt|gt|nbsp|mdash|ndash|md|ht|tl|ur|lr|qc|ql|qr|odq|cdq);)|&(?:quot|apos|#[0-9]+);",
    _CUT_KIND,
    "<WORD>",
    r"(?i:cont'd)\.",
    "«<WORD>»<A>(?i:[msd]|re|ve|ll)",
    r"«[A-Za-z\xad]*[A-MO-Za-mo-z]\xad*»[nN]<Q>[tT]",
    "[nN]<Q>[tT]",
    "«<A>(?i:[msd]|re|ve|ll)»[^A-Za-z]",
    "«[yY]<A>»(?=[A-Za-z])",
    "<A>[nN]<A>?|<A>em|<A>[2-9]0s",
    "[A-HJ-XZn]<Q><L><L>+",
    "<L>+[aeiouyAEIOUY]<Q>[aeiouA-Z]<L>*",
    "[lLdDjJ]<A>",
    "(?i:<APOSTROPHE>)|[oO]<Q>[oO]",
    r"«<A>[0-9][0-9]»\s",
    "https?://<URL>|HTTPS?://<URL>",
    r"(?i:www)\.(?:[^ \t\r\n\f\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}(?:/<URL>)?",
    r"(?:[^ \t\r\n\f\"`'<>|.!?(){},-_$]+\.)+(?:com|net|org|edu)(?:/<URL>)?",
    "(?:&lt;|<)?<EMAIL>(?:&gt;|>)?",
    "@[a-zA-Z_][a-zA-Z_0-9]*",
    "#<L>+",
    r"[\-+]?<D>*(?:[.,:\xad\u066b\u066c]<D>+)+|[\-+]?<D>+",
    r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)",
    r"(?:[0-9]{1,4}[\- \xa0])?[0-9]{1,4}(?:\\?/|\u2044)[0-9]{1,4}",
    r"«(?:(?i:<ALWAYS>|ed\.d|ph\.d)|<CAPITALISED>|(?i:p?pt)[ye](?i:s?))\.»[\s\S]{2}",
    r"(?i:<SPACE>)\.|[mM][ft][gG]\.|[A-Za-z](?:\.[A-Za-z])*\.",
    r"«[A-Za-z]»\.\s+(?:(?:<INITIAL>)\s|<TAG>)",
    r"«(?i:<NUMBER>)\.» ?<D>",
    *(rf"«{kind}\.»[,;:]" for kind in ("<WORD>", "<THING>", "<HYPHENED>", "<JOINED>")),
    "<THING>",
    "<JOINED>",
    r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
    "<HYPHENED>",
    r"«<N>+(?:\.<N>+)*\.(?i:<FILES>)»[\s.?!,]",
    r"[cC]\+\+|[cCfF]\#",
    r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \xa0])?[0-9]{2,4}[\- \xa0])"
    r"[0-9]{3,4}[\- \xa0]?[0-9]{3,5}",
    r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
    r"«[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]»[^A-Za-z0-9]",
    r"[\-^x=~<>']_[\-^x=~<>']|\([\-^x=~<>'][_.]?[\-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)",
    r"«'»[A-Za-z]\S",
    "<A>(?i:[msd]|re|ve|ll)",
    r"[A-Z]*\$",
    "(?i:-[lr][rsc]b-)",
    "[\u2018\u2019\u201c\u201d]{2}",
    r"-{5,}|--+|<<|>>|_+|\*+|(?:\\\*)+|[!?]+|@+|#+|''|``|\.{3,4}",
    r"[^\x00-\x20\xa0]",
]


def _compiled(kind: str) -> Pattern[str]:
    while (named := _NAME.sub(lambda name: f"(?:{_NAMES[name[1]]})", kind)) != kind:
        kind = named
    return re.compile(kind.replace("«", "(?P<token>").replace("»", ")"))


_CURLED = re.compile("[\u2018\u2019\u201c\u201d]{2}")
# Within tokens.
_WITHIN = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\xa0", "\xad": None})
# What is cut off of words has plain quotes; other words keep theirs.
_SHORT = re.compile(f"{_NAMES['A']}(?:[msd]|re|ve|ll)|n{_NAMES['Q']}t")
_QUOTES = str.maketrans({"\x92": "'", "\u2019": "'", "\x91": "`", "\u2018": "`", "\u201b": "`"})

_CUT = _compiled(_CUT_KIND)
_PATTERNS = [_compiled(kind) for kind in _KINDS]


# Of almost all of a caption no other kind can reach further. What ends it is white space, whatever follows.
_PLAIN = re.compile(r"([A-Za-z]+(?:-[A-Za-z]+)*)(?:,? |\n)|([0-9]+)(?= [A-Za-z])|([A-Za-z]{2,})\.\n| +")
_ABBREVIATED = frozenset(
    " ".join(
        [words.ALWAYS, words.ALWAYS_CAPITALISED, words.BEFORE_SPACE, words.BEFORE_NUMBER, words.LOWER_WITHIN]
    ).split()
)


def tokens(text: str) -> list[str]:
    """The tokens of a caption, as many as remain of it. Line breaks count as spaces."""
    return [token for token in _lexed(text) if token and token not in _REMOVED]


def _lexed(text: str) -> Iterator[str]:
    text = text.replace("\n", " ").replace("\r", " ")
    if not text.isascii():
        text = _BEYOND.sub(_DROPPED, text).translate(_DROP)
    # There a line break ends a caption, and the next caption follows.
    text += "\n\n"
    place, end = 0, len(text) - 2
    while place < end:
        plain = _PLAIN.match(text, place)
        if plain and not (plain[3] and plain[3].lower() in _ABBREVIATED):
            place = plain.end()
            word = (plain[1] or plain[2] or plain[3] or "").lower()
            cut = words.CUT_AFTER.get(word, len(word))
            yield word[:cut]
            yield word[cut:]
        else:
            token = _longest(text, place)
            place += len(token)
            yield _written(token)


def _longest(text: str, place: int) -> str:
    """The token that begins there; what no kind begins with is a token by itself."""
    reach, best = place, None
    for pattern in _PATTERNS:
        match = pattern.match(text, place)
        if match and match.end() > reach:
            reach, best = match.end(), match
    if best is None:
        return text[place]
    token = best["token"] if "token" in best.re.groupindex else best[0]
    return token[: words.CUT_AFTER[token.lower()]] if best.re is _CUT else token


def _written(token: str) -> str:
    token = token.lower()
    if token in _BECOMES:
        return _BECOMES[token]
    if len(token) == 1 and not token.isprintable():
        return ""
    if _CURLED.fullmatch(token):
        return "".join(_BECOMES[character] for character in token)
    if token[0] == "<" and token[-1] == ">":
        return token.replace(" ", "\xa0")
    token = token.translate(_WITHIN).replace("&amp;", "&").replace("&apos;", "'")
    return token.translate(_QUOTES) if _SHORT.fullmatch(token) else token
