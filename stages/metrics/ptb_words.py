"""Words that the tokenizer of Stanford CoreNLP 3.4.1 keeps whole, or cuts, by their very letters.

Measured: every string of two to five letters was given to it with a period, in lower case, capitalised and,
up to four letters, in capitals, before a word and before a number; every string of up to six letters with an
apostrophe inside; longer ones, and the words after an initial, from a list of 39,000 words.
"""

ALWAYS = (
    "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc "
    "ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov "
    "oct okla penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"
)
"""Keep their period, in any case, even where one letter follows: months, days, states, companies, ranks."""

ALWAYS_CAPITALISED = "ark az del ill la mass miss ore pa tex wash"
"""The same, with a first letter in upper case."""

BEFORE_SPACE = (
    "adm adj adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens "
    "ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof "
    "profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm"
)
"""Keep their period, in any case; before a letter they are the beginning of a longer word."""

BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
"""Keep their period before a number, in any case."""

LOWER_WITHIN = "mfg mtg ppte pptes ppty pptys pte ptes pty ptys"
"""Keep their period, but not in capitals."""

AFTER_INITIAL = (
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last MR. Many "
    "More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then There These They This We "
    "What When While Yet You"
)
"""Begin a sentence: a single letter and a period before one of them are two tokens."""

CUT_AFTER = {"cannot": 3, "gimme": 3, "gonna": 3, "gotta": 3, "lemme": 3, "wanna": 3, "'tis": 2, "'twas": 2}
"""Two tokens, in any case, where no longer word begins with them; the first has so many characters."""

WITH_APOSTROPHE = (
    "'cause 'em 'till 'til c'est c'mon cap'n dunkin' e'er ev'ry li'l nat'l nor'easter ol' s'mores somethin'"
)
"""One token, in any case, where no longer one begins with them."""
