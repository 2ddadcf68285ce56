"""Which languages write which script: Unicode blocks and the languages that `puna.data.language` chooses among. Data only.

Codes are ISO 639-1 where there is one and ISO 639-3 else. A script with several languages lists those that py3langid's model
holds; a script that the model does not know has one entry, the language that is written most in it. Konkani is left out: the
model takes Hindi with names in Latin letters for it.
"""

from __future__ import annotations

SCRIPTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("\u0e00", "\u0e7f", ("th",)),
    ("\u0900", "\u097f", ("hi", "mr", "ne", "sa")),
    ("\u0370", "\u03ff", ("el", "grc")),
    ("\u0400", "\u052f", ("ru", "uk", "bg", "be", "sr", "mk", "kk", "ky", "mn", "tg", "tt", "ba", "uz", "crh")),
    ("\u0590", "\u05ff", ("he", "hbo")),
    ("\u0600", "\u06ff", ("ar", "fa", "ur", "ps", "ug", "ku", "sdh", "arz", "ary", "uzs")),
    ("\u3040", "\u30ff", ("ja",)),
    ("\uac00", "\ud7af", ("ko",)),
    ("\u4e00", "\u9fff", ("zh", "yue", "wuu")),
    ("\u0980", "\u09ff", ("bn", "as")),
    ("\u0b80", "\u0bff", ("ta",)),
    ("\u0c00", "\u0c7f", ("te",)),
    ("\u0530", "\u058f", ("hy",)),
    ("\u10a0", "\u10ff", ("ka",)),
    ("\u0a80", "\u0aff", ("gu",)),
    ("\u0a00", "\u0a7f", ("pa",)),
    ("\u0c80", "\u0cff", ("kn",)),
    ("\u0d00", "\u0d7f", ("ml",)),
    ("\u0d80", "\u0dff", ("si",)),
    ("\u1780", "\u17ff", ("km",)),
    ("\u0e80", "\u0eff", ("lo",)),
    ("\u1000", "\u109f", ("my",)),
    ("\u1200", "\u137f", ("am",)),
    ("\u0b00", "\u0b7f", ("or",)),
    ("\u0700", "\u074f", ("syr",)),
    ("\u0780", "\u07bf", ("dv",)),
    ("\u07c0", "\u07ff", ("nqo",)),
    ("\u0f00", "\u0fff", ("bo",)),
    ("\u13a0", "\u13ff", ("chr",)),
    ("\u1400", "\u167f", ("iu",)),
    ("\u1800", "\u18af", ("mn",)),
    ("\u1900", "\u194f", ("lif",)),
    ("\u1950", "\u197f", ("tdd",)),
    ("\u1980", "\u19df", ("khb",)),
    ("\u1a00", "\u1a1f", ("bug",)),
    ("\u1b00", "\u1b7f", ("ban",)),
    ("\u1b80", "\u1bbf", ("su",)),
    ("\u1c00", "\u1c4f", ("lep",)),
    ("\u1c50", "\u1c7f", ("sat",)),
    ("\u2c80", "\u2cff", ("cop",)),
    ("\u2d30", "\u2d7f", ("zgh",)),
    ("\ua000", "\ua4cf", ("ii",)),
    ("\ua4d0", "\ua4ff", ("lis",)),
    ("\ua500", "\ua63f", ("vai",)),
    ("\ua6a0", "\ua6ff", ("bax",)),
    ("\ua880", "\ua8df", ("saz",)),
    ("\ua900", "\ua92f", ("eky",)),
    ("\ua930", "\ua95f", ("rej",)),
    ("\ua980", "\ua9df", ("jv",)),
    ("\uaa00", "\uaa5f", ("cjm",)),
    ("\uaa80", "\uaadf", ("blt",)),
    ("\uabc0", "\uabff", ("mni",)),
)
TWINS = {"ms": "id", "bs": "hr"}  # hard to tell apart; a split vote would look like doubt
LATIN_COMMON = """
en de fr it pt es nl sv da no fi et lv lt pl cs sk sl hr bs hu ro sq tr az id ms tl vi
"""
LATIN_RARE = """
sw ca eu gl ga cy is mt af eo la ha so yo ig zu xh uz mg ht jv rw sn st br fy gd ku lg ln om qu gug ace bcl ext gcf kik nso
pcm se an crh fo fuv gcr guw kab lb lij ltg oc tk tt vec vo wa nn
"""
# spoken by few or written little; mixed text looks like one of these to the classifier
TINY_CODES = "ace an bcl ext fuv gcf gcr guw kik lij ltg pcm vec vo wa sdh uzs"
TINY = frozenset(TINY_CODES.split())
LATIN = (*LATIN_COMMON.split(), *LATIN_RARE.split(), "sr")
RARE_ELSEWHERE = "sa as ba tt tg ug ku grc hbo sdh arz ary uzs yue wuu"
# a thousandth of the web or less: the classifier gives every language the same prior, and takes odd text for one of these
RARE = frozenset((*LATIN_RARE.split(), *RARE_ELSEWHERE.split()))
LANGUAGES = tuple(sorted({TWINS.get(code, code) for codes in (*(script[2] for script in SCRIPTS), LATIN) for code in codes}))
