"""How texts begin that decline to answer, in English and in Chinese."""

import re
from functools import cache

_CANNOT = r"(?:can(?:no|')?t|can not|am (?:unable|not able) to|'m (?:unable|not able) to|won't|will not)"
_SORRY = r"(?:(?:i'm|i am|we're|we are) (?:very |so |really )?sorry|sorry|(?:my )?apologies|i apologi[sz]e)"
_IMAGES = r"(?:(?:the|this|that|your|any) )?(?:images?|pictures?|photos?|photographs?|attachments?|files?)"
_I_CANNOT = rf"(?:unfortunately\W+)?i ?{_CANNOT}"
_LOOK = r"(?:directly )?(?:see|view|open|access|process|analy[sz]e|describe)"
_SOMEONE = r"(?:(?:real|specific|the|this|these) )*(?:people|persons?|individuals?)"

_ENGLISH = (
    rf"{_SORRY}\W+(?:but )?(?:i|we) ?(?:{_CANNOT}|do not|don't) ",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model|text[- ]based)\b",
    r"(?:i'm|i am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    rf"{_I_CANNOT} (?:help|assist|comply|fulfil|engage|participate)",
    rf"{_I_CANNOT} {_LOOK} {_IMAGES}",
    rf"{_I_CANNOT} (?:answer|provide|discuss|do|generate|create) (?:that|this|it|such)\b",
    rf"{_I_CANNOT} identify {_SOMEONE}\b",
    rf"(?:unfortunately\W+)?i (?:do not|don't) have (?:the ability|access) to (?:see|view|{_IMAGES})",
)

_ZH_CANNOT = "(?:[无無]法|不能|[没沒]有?[办辦]?法|不便)"
_ZH_THIS = "(?:的|您|你|[这這]|[该該]|任何|真[实實])?(?:的|[张張]|幅|些|[个個])?"
_ZH_SEE = "(?:直接)?(?:查看|看到|看[见見]|[识識][别別]|[处處]理|[访訪][问問]|分析|描述)"
_ZH_HELP = "(?:提供|回答|[协協]助|[帮幫]助|[满滿]足|完成)(?:您|你|[这這]|[该該]|此|相[关關])"

_CHINESE = (
    rf"(?:很|非常|十分|真的?)?(?:抱歉|[对對]不起|不好意思)\W*(?:但是?)?(?:我|作[为為]|本)\w{{0,16}}?\W?\w{{0,8}}?{_ZH_CANNOT}",
    r"(?:作[为為]|我是|我只是)一?[个個款名位]?(?:AI|人工智[能慧]|大?型?[语語]言模型)",
    rf"我{_ZH_CANNOT}{_ZH_SEE}{_ZH_THIS}(?:[图圖]|照片|人物|文件)",
    rf"我{_ZH_CANNOT}(?:[为為][您你])?{_ZH_HELP}",
)

_START = 400  # characters
_RIGHT_QUOTE = "\u2019"


def refusal_in(text: str, more: tuple[str, ...] = ()) -> str | None:
    """The words with which a text declines to answer; None where it does not. `more`: further patterns.

    Only the start counts: a picture may show a sign that says sorry. What hedges ("I cannot see any people in
    the picture") declines nothing.
    """
    start = " ".join(text[:_START].replace(_RIGHT_QUOTE, "'").split()).lstrip("\"'*#> \u201c")
    found = next(filter(None, (pattern.match(start) for pattern in _patterns(more))), None)
    return found[0][:80] if found else None


@cache
def _patterns(more: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Each on its own: a pattern may begin with flags."""
    known = "|".join(f"(?:{pattern})" for pattern in (*_ENGLISH, *_CHINESE))
    return [re.compile(pattern, re.IGNORECASE) for pattern in (known, *more)]
