"""Text that is hard to align, and strategies that mix it."""

from __future__ import annotations

from hypothesis import strategies as st

SAMPLES = (
    "def add(first, second):\n    return first + second\n\n\nclass Node:\n    def __init__(self, value):\n",
    "for index in range(len(values)):\n\tif values[index] is None:\n\t\tcontinue\n    print('value')\n",
    "import sys, json\nwith open(path) as handle:\n    data = json.load(handle)\nreturn {key: data[key]}\n",
    "naïve café über Straße e\u0301 o\u0308 ☕ 👩\u200d💻 👍🏽 🎉🎉",
    "漢字仮名 交じり文 שלום עולם مرحبا بالعالم привет мир \u202eabc\u202c",
    "\x00\x01\x1b[0m\r\n\t\x7f\x85\u00a0\u2028\ufeff",
)
PIECES = (
    *("the", " word", " Words", "Éa", "  ", "    ", "\n", "\r\n", "\n\n", "\t", " \x00 ", "#", "_x", "12345"),
    *(
        "e\u0301",
        "a\u0323\u0302",
        "a\u0302\u0323",
        "\u0344",
        "\u0301",
        "\u200d",
        "\ufe0f",
        "é",
        "İ",
        "ß",
        "ﬁ",
    ),
    *(
        "👩\u200d💻",
        "👍🏽",
        "🇩🇪",
        "漢字",
        "ｶﾞ",
        "ﷺ",
        "①",
        "ｱ",
        "か\u3099",
        "\u3000",
        "한글",
        "\u1112\u1161\u11ab",
    ),
    *(
        "하\u11ab",
        "\u11ab",
        "שָׁלוֹם",
        "مرحبا",
        "\u202eabc\u202c",
        "हिन्दी",
        "กำ",
        "\x1b[0m",
        "\x85",
        "\u00a0",
        "\ufeff",
    ),
    *("▁", "▁▁a", " ▁", "Ġ", "Ġthe", "##ing", "<0x4", "\x7f", "\u2028", "\u00ad", "print('value')", "Å", "Ω"),
)
ALPHABET = "".join(sorted({*"".join(SAMPLES), *"".join(PIECES), *map(chr, range(0x20, 0x7F))}))

wild_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
pieces = st.one_of(st.sampled_from(SAMPLES), st.sampled_from(PIECES), st.sampled_from(PIECES))
# Of characters that every tokenizer's vocabulary covers, and of any.
known_texts = st.lists(pieces, max_size=8).map("".join)
texts = st.lists(st.one_of(pieces, wild_text), max_size=8).map("".join)
